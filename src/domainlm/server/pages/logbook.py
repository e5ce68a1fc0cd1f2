"""The event log as pages read it: parsed once per change, since each page needs all of it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from domainlm.feedback.log import current_view
from domainlm.schema import FeedbackEvent
from domainlm.server.opinions import Opinions


@dataclass(frozen=True, slots=True)
class Entries:
    """All events, oldest first, those that count now, and their texts as far as they were read."""

    head: str
    every: tuple[FeedbackEvent, ...] = ()
    current: tuple[FeedbackEvent, ...] = ()
    counting: frozenset[str] = frozenset()
    by_answer: dict[str, tuple[FeedbackEvent, ...]] = field(default_factory=dict)
    """Answer id -> the current events in which it was shown."""


class Logbook:
    """The newest `Entries`, kept until the log's head moves."""

    def __init__(self, opinions: Opinions) -> None:
        self._opinions = opinions
        self._lock = threading.Lock()
        self._kept = Entries("")

    def read(self) -> Entries:
        """What the log holds now; nothing if there is none yet.

        Raises:
            DataError: the log cannot be read.
        """
        if not self._opinions.path.exists():
            return Entries("")
        log = self._opinions.log
        head = log.head
        with self._lock:
            if head == self._kept.head:
                return self._kept
        every = tuple(log.read())
        current = tuple(current_view(every))
        by_answer: dict[str, list[FeedbackEvent]] = {}
        for event in current:
            for shown in event.shown:
                by_answer.setdefault(shown.answer_id, []).append(event)
        made = Entries(
            every[-1].hash if every else "",
            every,
            current,
            frozenset(e.id for e in current),
            {k: tuple(v) for k, v in by_answer.items()},
        )
        with self._lock:
            self._kept = made
        return made

    def text(self, sha: str) -> str:
        """A kept text by its SHA-256; empty if it is unknown."""
        return self._opinions.log.texts([sha]).get(sha, "")
