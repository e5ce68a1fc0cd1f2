"""Texts derived from chunks (questions, sentences, summaries): searched, never shown.

A side index of such texts lies beside the index, in one append-only file per stage, settings, model
and embedder. What was derived is kept by the digest of the content that it was derived from: a
changed document has its own entries derived again and no others, a removed one takes its entries
along, a killed build goes on where it stopped. A hit leads to chunks, so that passages stay
verbatim. Derived texts move chunks in the ranking of the plain hybrid; without any, it stands.
"""

from __future__ import annotations

import base64
import binascii
import threading
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from domainlm.artifacts import Log, digest
from domainlm.asking import Allowance, Answered, Bill, Report, Task, ask_all
from domainlm.models.base import Array
from domainlm.rag.stages import Resources
from domainlm.schema import Sampling

MAX_CALLS, TOKEN_CAP = 1_000, 1_000_000
"""The cap where none is given."""
_BATCH = 32
"""Contents between two writes to the disk; without a model eight times as many, since embedding
pads less in large batches.
"""


@dataclass(frozen=True, slots=True)
class Written:
    """What was derived from one content, with its vectors (base64 of float16) and what it took;
    without texts, if nothing usable came of it.
    """

    key: str
    texts: tuple[str, ...]
    vectors: str
    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    seconds: float = 0.0


def open_side(
    resources: Resources,
    stage: str,
    settings: object,
    *,
    sampling: Sampling | None = None,
    kind: Literal["query", "passage"] = "passage",
) -> Side:
    """The derived texts of a stage with these settings, opened once for all that search them.

    `sampling` None derives without a model; `kind` is how the embedder takes the texts.
    """
    model = (resources.model_name or resources.model().name) if sampling else ""
    name = f"{stage}-{digest(stage, settings, sampling, model, resources.embedder.name)}"
    if name not in resources.cache:
        resources.cache[name] = Side(resources, stage, name, sampling, kind)
    side: Side = resources.cache[name]
    return side


class Side:
    """Derived texts by the digest of their content, and how more are derived. See `open_side`."""

    def __init__(
        self,
        resources: Resources,
        stage: str,
        name: str,
        sampling: Sampling | None,
        kind: Literal["query", "passage"],
    ) -> None:
        self.stage, self._resources, self._sampling, self._kind = stage, resources, sampling, kind
        self.lock = threading.Lock()
        self._dimension = resources.embedder.dimension
        folder = resources.index.folder
        self._log = Log(folder / f"{name}.jsonl", Written) if folder else None
        # Of two records of one content, by two processes, the later counts.
        read: list[Written] = self._log.read() if self._log else []
        self._known = {r.key: r for r in read if self._fits(r)}

    def bill(self) -> Bill:
        """What the texts at hand have taken."""
        known = self._known.values()
        return Bill(
            sum(r.calls for r in known),
            sum(r.tokens_in for r in known),
            sum(r.tokens_out for r in known),
            sum(r.seconds for r in known),
        )

    def __contains__(self, key: object) -> bool:
        return key in self._known

    def texts(self, key: str) -> tuple[str, ...]:
        """What was derived from a content."""
        return self._known[key].texts if key in self._known else ()

    def vectors(self, key: str) -> Array:
        """Vectors of `texts(key)`, (texts, d)."""
        packed = self._known[key].vectors if key in self._known else ""
        values = np.frombuffer(base64.b64decode(packed), np.float16)
        return values.reshape(-1, self._dimension).astype(np.float32)

    def confine(self, keys: Collection[str]) -> None:
        """Forget everything else, on the disk too."""
        wanted = set(keys)
        if self._known.keys() <= wanted:
            return
        self._known = {key: r for key, r in self._known.items() if key in wanted}
        if self._log:
            self._log.rewrite(list(self._known.values()))

    def write(self, tasks: Sequence[Task], allowance: Allowance) -> Report:
        """Derive what is missing, below a cap over all runs."""
        return ask_all(
            tasks,
            self,
            self._resources.model,
            self._sampling or Sampling(),
            allowance,
            "derive",
            batch=_BATCH if self._sampling else 8 * _BATCH,
            progress=lambda done, all_: self._resources.progress.update(done, all_, self.stage),
        )

    def known(self, keys: Sequence[str]) -> Collection[str]:
        """Those of `keys` that texts were derived from, usable or not."""
        return self._known.keys() & set(keys)

    def keep(self, answered: Sequence[Answered], since: float) -> None:
        """Embed what was derived, and keep it.

        Raises:
            ModelError: the embedder failed.
        """
        if not answered:
            return
        read = [
            (task.key, tuple(dict.fromkeys(task.read([g.text for g in own]))), own)
            for task, own in answered
        ]
        flat = [text for _, texts, _ in read for text in texts]
        vectors = self._resources.embedder.embed(flat, self._kind).astype(np.float16)
        share = (time.perf_counter() - since) / len(read)
        place = 0
        records = []
        for key, texts, own in read:
            rows = vectors[place : place + len(texts)]
            place += len(texts)
            records.append(
                Written(
                    key,
                    texts,
                    base64.b64encode(rows.tobytes()).decode("ascii"),
                    len(own),
                    sum(g.usage.tokens_in for g in own),
                    sum(g.usage.tokens_out for g in own),
                    round(share, 6),
                )
            )
        if self._log:
            self._log.append(records)
        self._known.update((r.key, r) for r in records)

    def _fits(self, record: Written) -> bool:
        """Whether a record read from the disk holds as many vectors as texts."""
        try:
            held = len(base64.b64decode(record.vectors, validate=True))
        except (binascii.Error, ValueError):
            return False
        return held == 2 * self._dimension * len(record.texts)
