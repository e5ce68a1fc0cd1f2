"""Finished runs beside each other: what there is, two compared, one priced anew."""

from __future__ import annotations

import contextlib
import datetime as dt
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from domainlm import paired, pricing
from domainlm.config import Config
from domainlm.config.cost import COST_KEYS, CostConfig
from domainlm.errors import DataError
from domainlm.experiment import RESULT, load_result
from domainlm.paired import Comparison
from domainlm.schema import RunResult
from domainlm.server.failures import HttpFailure, NotFound

_HELD = 4
ROI_KEYS = COST_KEYS - {"prices"}
"""Settings of `cost` that the network may set: not the price book, which is a file's path."""


@dataclass(frozen=True, slots=True)
class RunCard:
    """A finished run in a list."""

    name: str
    created_at: str
    ship: str
    sentence: str
    questions: int
    documents: int


class Runs:
    """The runs in the output folder, this one and earlier ones that were set aside."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._results: OrderedDict[tuple[Path, int], RunResult] = OrderedDict()
        self._cards: dict[tuple[Path, int], RunCard] = {}

    def cards(self) -> list[RunCard]:
        """All runs, newest first; one whose result another version wrote is left out."""
        found = []
        for folder in self._folders().values():
            with contextlib.suppress(DataError):
                found.append(self._card(folder))
        return sorted(found, key=lambda c: (c.created_at, c.name), reverse=True)

    def result(self, name: str = "") -> RunResult:
        """A finished run; without a name, the one that is served.

        Raises:
            NotFound: there is none of that name.
            DataError: it cannot be read.
        """
        folder = self._folders().get(name or self._config.name)
        if folder is None:
            raise NotFound(
                f"there is no finished run {name or self._config.name!r}; start the job 'run'"
            )
        return self._load(folder)

    def compare(self, before: str, after: str) -> Comparison:
        """Each arm of the later run against itself in the earlier one, on the questions of both.

        Raises:
            NotFound: there is no such run.
            DataError: they have no question in common.
        """
        sides = [paired.side_of(self.result(name), name) for name in (after, before)]
        return paired.compare(*sides, margin=self._config.evaluation.margin)

    def reprice(self, name: str, settings: dict[str, Any]) -> RunResult:
        """A run under other prices and assumptions.

        Raises:
            HttpFailure: a setting is unknown or its value will not do.
            NotFound: there is no such run.
            DataError: the run did not record what its arms took.
        """
        unknown = sorted(set(settings) - ROI_KEYS)
        if unknown:
            raise HttpFailure(
                400,
                f"{unknown[0]!r:.80} is no setting of cost that can be set here; use "
                f"{', '.join(sorted(ROI_KEYS))}",
                code="unknown_setting",
                param="settings",
            )
        kept = self._config.cost.model_dump()
        try:
            cost = CostConfig.model_validate({**kept, **settings})
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise HttpFailure(
                400, f"cost.{where}: {first['msg']}", code="bad_setting", param=where
            ) from None
        config = self._config.model_copy(update={"cost": cost})
        return pricing.reprice(config, self.result(name), dt.datetime.now(dt.UTC).date())

    def _folders(self) -> dict[str, Path]:
        """Names as they are listed lead to folders; no name is ever made into a path."""
        if not self._config.output.is_dir():
            return {}
        return {p.parent.name: p.parent for p in self._config.output.glob(f"*/{RESULT}")}

    def _card(self, folder: Path) -> RunCard:
        key = _stamp(folder)
        with self._lock:
            known = self._cards.get(key)
        if known is None:
            result = self._load(folder)
            asked = {s.question_id for s in result.scores if s.split != "dev"}
            known = RunCard(
                folder.name,
                result.created_at,
                result.verdict.ship,
                result.verdict.sentence,
                len(asked),
                result.data.documents,
            )
            with self._lock:
                self._cards[key] = known
        return known

    def _load(self, folder: Path) -> RunResult:
        key = _stamp(folder)
        with self._lock:
            if key in self._results:
                self._results.move_to_end(key)
                return self._results[key]
        result = load_result(folder)
        with self._lock:
            self._results[key] = result
            while len(self._results) > _HELD:
                self._results.popitem(last=False)
        return result


def _stamp(folder: Path) -> tuple[Path, int]:
    try:
        return folder, (folder / RESULT).stat().st_mtime_ns
    except FileNotFoundError:
        raise DataError(f"{folder / RESULT} has just been moved; list the runs again") from None
