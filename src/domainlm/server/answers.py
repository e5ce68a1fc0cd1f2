"""The answers that were given, by id, so that feedback can name one; kept beside the event log."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

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
        self._read_to = 0
        self._last = 0, b""

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
        try:
            with self._reading, self._path.open("rb") as stream:
                self._read_on(stream)
                place, length = self._places.get(answer_id, (0, 0))
                stream.seek(place)
                return _parsed(stream.read(length))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DataError(f"{self._path} cannot be read ({error.strerror})") from None

    def _read_on(self, stream: BinaryIO) -> None:
        """Note where the answers stand that were added since the last time."""
        at, line = self._last
        stream.seek(at)
        if stream.read(len(line)) != line:
            # Written anew, as when something was forgotten.
            self._places, self._read_to, self._last = {}, 0, (0, b"")
        stream.seek(self._read_to)
        for raw in stream:
            line = raw.rstrip(b"\n")
            given = _parsed(line) if line else None
            if given is not None:
                self._places[given.id] = self._read_to, len(line)
                self._last = self._read_to, line
            elif line == raw:
                # The last line may still be written.
                break
            self._read_to += len(raw)

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
