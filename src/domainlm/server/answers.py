"""The answers that were given, by id, so that feedback can name one; kept beside the event log."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from domainlm.errors import DataError
from domainlm.feedback import asked
from domainlm.feedback.asked import Asked
from domainlm.feedback.events import show
from domainlm.schema import Answer, Question

_REMEMBERED = 2_000
_ASKED = TypeAdapter(Asked)


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
        self._reading = threading.Lock()
        self._places: dict[str, tuple[int, int]] = {}
        self._read_to, self._inode = 0, 0

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
            found = self._looked_up(answer_id)
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

    def _looked_up(self, answer_id: str) -> Given | None:
        """From the file, of which every line is read once, however often somebody guesses."""
        if not self._path.exists():
            return None
        with self._reading, self._path.open("rb") as stream:
            stat = os.fstat(stream.fileno())
            if stat.st_ino != self._inode or stat.st_size < self._read_to:
                # Written anew, as when something was forgotten.
                self._places, self._read_to, self._inode = {}, 0, stat.st_ino
            stream.seek(self._read_to)
            data = stream.read()
            size = self._read_to + len(data)
            for line in data.split(b"\n"):
                given = _parsed(line) if line else None
                if given is not None:
                    self._places[given.id] = self._read_to, len(line)
                elif self._read_to + len(line) >= size:
                    # The last line may still be written.
                    break
                self._read_to += len(line) + 1
            self._read_to = min(self._read_to, size)
            place = self._places.get(answer_id)
            if place is None:
                return None
            stream.seek(place[0])
            return _parsed(stream.read(place[1]))

    def _remember(self, given: Given) -> None:
        self._latest[given.id] = given
        self._latest.move_to_end(given.id)
        while len(self._latest) > _REMEMBERED:
            self._latest.popitem(last=False)


def _parsed(line: bytes) -> Given | None:
    """The answer of a line; None for an empty or torn one."""
    try:
        return _given(_ASKED.validate_json(line))
    except ValidationError:
        return None


def _given(kept: Asked) -> Given:
    return Given(show(kept.answer)[0].answer_id, kept.question, kept.answer, kept.time)
