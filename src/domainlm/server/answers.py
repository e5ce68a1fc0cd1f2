"""The answers that were given, by id, so that feedback can name one; kept beside the event log."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from domainlm.artifacts import Log
from domainlm.errors import DataError
from domainlm.feedback import asked
from domainlm.feedback.asked import Asked
from domainlm.feedback.events import show
from domainlm.schema import Answer, Question

_REMEMBERED = 2_000


@dataclass(frozen=True, slots=True)
class Given:
    """An answer that was given to a user."""

    id: str
    question: Question
    answer: Answer
    time: str


class Answers:
    """The record of given answers: a file for all of them, memory for the latest."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._latest: OrderedDict[str, Given] = OrderedDict()

    def keep(self, question: Question, answer: Answer) -> Given:
        """Write an answer down.

        Raises:
            DataError: the record cannot be written.
        """
        with self._lock:
            given = _given(asked.keep(self._path, question, answer))
            self._remember(given)
        return given

    def get(self, answer_id: str) -> Given | None:
        """The answer of that id, if there is one; old ones are looked up in the file."""
        with self._lock:
            found = self._latest.get(answer_id)
        if found is None:
            # Without the lock: nobody's answer waits until a long record is read.
            kept: list[Asked] = Log(self._path, Asked).read()
            made = (_given(a) for a in reversed(kept))
            found = next((g for g in made if g.id == answer_id), None)
        if found is not None:
            with self._lock:
                self._remember(found)
        return found

    def find(self, answer_id: str) -> Given:
        """The answer of that id.

        Raises:
            DataError: there is none.
        """
        found = self.get(answer_id)
        if found is None:
            raise DataError(
                f"there is no answer {answer_id[:80]!r}; ask again and use the id that comes with "
                "the answer"
            )
        return found

    def _remember(self, given: Given) -> None:
        self._latest[given.id] = given
        self._latest.move_to_end(given.id)
        while len(self._latest) > _REMEMBERED:
            self._latest.popitem(last=False)


def _given(kept: Asked) -> Given:
    return Given(show(kept.answer)[0].answer_id, kept.question, kept.answer, kept.time)
