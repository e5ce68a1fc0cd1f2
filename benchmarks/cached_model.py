"""A chat model that remembers on disk what it said, and answers many questions in one batch.

Stages ask the model one question at a time, which costs a small model ten times as much as a batch.
While `noting`, an unknown chat fails at once and is remembered; `flush` answers all of these
together, and the stages run again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from domainlm.artifacts import Log, digest
from domainlm.errors import ModelError
from domainlm.models.base import ChatModel
from domainlm.schema import Chat, Generation, Sampling

BATCH = 16


@dataclass(frozen=True)
class Said:
    """One remembered answer: a generation, or what `surprise` found."""

    key: str
    generation: Generation | None
    surprise: tuple[float, ...] = ()


class CachedModel:
    """Wraps a model; nothing is loaded while everything asked is known."""

    def __init__(self, load: Callable[[], ChatModel], path: Path, name: str = "embedded") -> None:
        self.name, self._load, self._log = name, load, Log(path, Said)
        self._known: dict[str, Said] = {s.key: s for s in self._log.read()}
        self._noted: dict[tuple[Chat, Sampling], None] = {}
        self.noting = False

    @cached_property
    def _model(self) -> ChatModel:
        return self._load()

    def generate(self, chats: Sequence[Chat], params: Sampling) -> list[Generation]:
        """Complete each chat, or raise `ModelError` where one is unknown while noting."""
        missing = [c for c in dict.fromkeys(chats) if self._key(c, params) not in self._known]
        if missing and self.noting:
            self._noted |= dict.fromkeys((c, params) for c in missing)
            raise ModelError("noted for later")
        missing.sort(key=lambda c: sum(len(m.content) for m in c))
        for start in range(0, len(missing), BATCH):
            batch = missing[start : start + BATCH]
            made = self._model.generate(batch, params)
            self._remember(
                [Said(self._key(c, params), g) for c, g in zip(batch, made, strict=True)]
            )
        found = [self._known[self._key(c, params)].generation for c in chats]
        return [g for g in found if g is not None]

    def flush(self) -> int:
        """Answer what was noted; how many chats that were."""
        noted, self._noted, self.noting = self._noted, {}, False
        for params in dict.fromkeys(p for _, p in noted):
            self.generate([c for c, p in noted if p == params], params)
        return len(noted)

    def surprise(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """What the model's own `surprise` finds."""
        key = digest("surprise", list(pairs))
        if key not in self._known:
            values = self._model.surprise(pairs)  # type: ignore[attr-defined]
            self._remember([Said(key, None, tuple(values))])
        return list(self._known[key].surprise)

    def generate_ensemble(
        self,
        groups: Sequence[Sequence[Chat]],
        weights: Sequence[Sequence[float]],
        params: Sampling,
    ) -> list[Generation]:
        """What the model's own `generate_ensemble` writes."""
        found = []
        for chats, shares in zip(groups, weights, strict=True):
            key = digest("ensemble", list(chats), list(shares), params)
            if key not in self._known:
                (made,) = self._model.generate_ensemble([chats], [shares], params)  # type: ignore[attr-defined]
                self._remember([Said(key, made)])
            found.append(self._known[key].generation)
        return [g for g in found if g is not None]

    def count_tokens(self, text: str) -> int:
        """Tokens of `text`."""
        return self._model.count_tokens(text)

    def _key(self, chat: Chat, params: Sampling) -> str:
        return digest(chat, params)

    def _remember(self, said: list[Said]) -> None:
        self._log.append(said)
        self._known |= {s.key: s for s in said}
