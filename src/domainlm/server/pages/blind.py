"""Comparisons whose arms are hidden until the vote; kept in a file, so that none is lost."""

from __future__ import annotations

import random
import secrets
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from domainlm.artifacts import Log, timestamp
from domainlm.server.answers import Given
from domainlm.server.failures import NotFound

LETTERS = "ABCDEFGH"
_REMEMBERED = 500


@dataclass(frozen=True, slots=True)
class Blind:
    """One comparison: ids of the answers in the order in which they are shown, and for whom."""

    id: str
    by: str
    question: str
    answer_ids: tuple[str, ...]
    time: str


class Comparisons:
    """The comparisons that were shown."""

    def __init__(self, path: Path) -> None:
        self._log = Log(path, Blind)
        self._lock = threading.Lock()
        self._latest: OrderedDict[str, Blind] = OrderedDict()

    def begin(self, by: str, given: Sequence[Given]) -> Blind:
        """Shuffle answers to one question and keep the order.

        Raises:
            DataError: it cannot be written.
        """
        shown = list({g.id: g for g in given}.values())
        random.SystemRandom().shuffle(shown)
        now = timestamp()
        made = Blind(
            secrets.token_hex(8), by, given[0].question.text, tuple(g.id for g in shown), now
        )
        with self._lock:
            self._log.append([made])
            self._remember(made)
        return made

    def find(self, blind_id: str) -> Blind:
        """The comparison of that id.

        Raises:
            NotFound: there is none.
        """
        with self._lock:
            found = self._latest.get(blind_id)
            if found is None:
                kept: list[Blind] = self._log.read()
                found = next((b for b in reversed(kept) if b.id == blind_id), None)
            if found is None:
                raise NotFound(f"there is no comparison {blind_id[:40]!r}; ask the question again")
            self._remember(found)
            return found

    def _remember(self, blind: Blind) -> None:
        self._latest[blind.id] = blind
        self._latest.move_to_end(blind.id)
        while len(self._latest) > _REMEMBERED:
            self._latest.popitem(last=False)
