"""The models in memory: loaded at the first need, the one unused for longest makes room."""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from domainlm.config import Config
from domainlm.contenders import load_model
from domainlm.memory import release
from domainlm.models.base import ChatModel, JoiningModel
from domainlm.server.batching import Batched, Direct, Turn


@dataclass(frozen=True, slots=True)
class Weights:
    """What a model is made of: `place` finds the folder of its adapter, None for the bare base."""

    key: str
    place: Callable[[], Path | None]


BASE = Weights("", lambda: None)


@dataclass(slots=True)
class _Loaded:
    model: Batched | Direct
    users: int = 0


class Models:
    """Models by weights; the base, which stages of a pipeline may ask at any time, stays."""

    def __init__(self, config: Config, *, told: Callable[[int], None]) -> None:
        self._config, self._told = config, told
        self._lock = threading.Lock()
        self._loading = threading.Lock()
        self._turn = Turn()
        self._loaded: OrderedDict[str, _Loaded] = OrderedDict()

    @contextlib.contextmanager
    def use(self, weights: Weights) -> Iterator[ChatModel]:
        """The model, which stays loaded inside the block.

        Raises:
            DomainLMError: it cannot be loaded.
        """
        with self._loading:
            loaded = self._get(weights)
            with self._lock:
                loaded.users += 1
        try:
            yield loaded.model
        finally:
            with self._lock:
                loaded.users -= 1

    def base(self) -> ChatModel:
        """The untuned model, for stages of a pipeline."""
        with self._loading:
            return self._get(BASE).model

    def names(self) -> list[str]:
        """Names of the models in memory."""
        with self._lock:
            return [loaded.model.name for loaded in self._loaded.values()]

    def close(self) -> None:
        """Let all go."""
        with self._lock:
            gone = list(self._loaded.values())
            self._loaded.clear()
        # A model's own lock is never taken inside this one.
        for loaded in gone:
            loaded.model.close()

    def _get(self, weights: Weights) -> _Loaded:
        with self._lock:
            if weights.key in self._loaded:
                self._loaded.move_to_end(weights.key)
                return self._loaded[weights.key]
        self._make_room()
        model = load_model(self._config, weights.place())
        loaded = _Loaded(Direct(model))
        if isinstance(model, JoiningModel):
            most = self._config.serve.batch
            loaded.model = Batched(model, most=most, turn=self._turn, told=self._told)
        with self._lock:
            self._loaded[weights.key] = loaded
        return loaded

    def _make_room(self) -> None:
        """Unload the idle model that was used longest ago, if there are as many as may be."""
        with self._lock:
            idle = [k for k, v in self._loaded.items() if not v.users and k != BASE.key]
            if len(self._loaded) < self._config.serve.models or not idle:
                return
            gone = self._loaded.pop(idle[0])
        gone.model.close()
        release()
