"""What can be asked by name: the arms that are built, and the models of the registry."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from domainlm.bench import ADAPTER_OF
from domainlm.config import Config
from domainlm.errors import DataError
from domainlm.rag.arms import CLOSED_BOOK
from domainlm.registry import Registry
from domainlm.schema import ModelRecord
from domainlm.server.failures import NotFound
from domainlm.server.ground import Ground
from domainlm.server.loaded import BASE, Weights

CHAMPION = "champion"


@dataclass(frozen=True, slots=True)
class ModelCard:
    """A name that can be asked: an arm, or a registered model as `arm@id`.

    `model` is the id of the registered model that answers, empty for the base or the run's own
    weights.
    """

    name: str
    arm: str
    model: str = ""
    created: str = ""

    @property
    def created_s(self) -> int:
        """When the registered model was made, in seconds since 1970; 0 for others."""
        return int(dt.datetime.fromisoformat(self.created).timestamp()) if self.created else 0

    @property
    def retrieves(self) -> bool:
        """Whether it reads passages."""
        return self.arm not in CLOSED_BOOK


class Catalogue:
    """Names, who answers to them, and of what weights they are made."""

    def __init__(self, config: Config, registry: Registry, ground: Callable[[], Ground]) -> None:
        self._config, self._registry, self._ground = config, registry, ground

    def models(self) -> list[ModelCard]:
        """Everything that can be asked: arms first, then registered models, newest first."""
        arms = [card for arm in self._config.arms if (card := self._arm(arm)) is not None]
        known = [self._registered(r) for r in reversed(self._registry.models())]
        return [*arms, *(card for card in known if card is not None)]

    def card(self, name: str = "") -> ModelCard:
        """The model of that name; without one, the arm that the verdict ships, else `rag`.

        Raises:
            NotFound: there is none.
        """
        found: ModelCard | None = None
        if not name:
            found = self._default()
        elif name in self._config.arms:
            found = self._arm(name)
        elif name == CHAMPION or "@" in name:
            with contextlib.suppress(DataError):
                found = self._registered(self._registry.model(name.rpartition("@")[2]))
            if found is not None and "@" in name and not name.startswith(f"{found.arm}@"):
                found = None
        if found is None:
            some = ", ".join(c.name for c in self.models()[:8]) or "none yet: start a run"
            raise NotFound(f"there is no model {name[:80]!r}; there are {some}", param="model")
        return found

    def _default(self) -> ModelCard | None:
        result = self._ground().result
        wanted = [result.verdict.ship] if result else []
        for arm in (*wanted, "rag", *self._config.arms):
            if arm in self._config.arms and (card := self._arm(arm)) is not None:
                return card
        return None

    def _arm(self, arm: str) -> ModelCard | None:
        """The arm, served with the champion if that is of its kind; None if it cannot answer."""
        ground = self._ground()
        if arm not in CLOSED_BOOK and ground.index is None:
            return None
        kind = ADAPTER_OF.get(arm)  # type: ignore[call-overload]
        if kind is None:
            return ModelCard(arm, arm)
        own = ground.adapters.get(kind)
        if self._registry.champion() is not None:
            champion = self._registry.model(CHAMPION)
            same = ADAPTER_OF.get(champion.arm) == kind  # type: ignore[call-overload]
            if same and (own is None or own.base_model == champion.base_model):
                return ModelCard(arm, arm, champion.id, champion.created_at)
        return ModelCard(arm, arm) if own is not None else None

    def _registered(self, record: ModelRecord) -> ModelCard | None:
        folder = self._registry.folder / "models" / record.id
        # Digests are checked when the weights are loaded.
        there = all((folder / name).is_file() for name in record.files)
        if record.arm not in self._config.arms or not there:
            return None
        card = ModelCard(f"{record.arm}@{record.id}", record.arm, record.id, record.created_at)
        return card if not card.retrieves or self._ground().index is not None else None

    def weights(self, card: ModelCard) -> Weights:
        """What a model is made of: the base alone, or with what folder.

        Raises:
            NotFound: its weights have gone since it was looked up.
        """
        if card.model:
            return Weights(card.model, lambda: self._registry.verify(card.model))
        kind = ADAPTER_OF.get(card.arm)  # type: ignore[call-overload]
        if kind is None:
            return BASE
        own = self._ground().adapters.get(kind)
        if own is None:
            raise NotFound(f"{card.name} has just been removed; list the models again")
        place = Path(own.path)
        return Weights(str(place), lambda: place)
