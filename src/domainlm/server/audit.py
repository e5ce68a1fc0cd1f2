"""The audit trail: one JSON line for every change, with who did what; no secrets, no texts."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path

from domainlm.artifacts import Log, timestamp


@dataclass(frozen=True, slots=True)
class AuditLine:
    """One change."""

    time: str
    who: str
    action: str
    details: dict[str, str] = field(default_factory=dict)


class Audit:
    """Lines in a file that is only appended to, each flushed to the disk."""

    def __init__(self, path: Path) -> None:
        self._log = Log(path, AuditLine)
        self._lock = threading.Lock()

    def note(self, who: str, action: str, **details: str) -> None:
        """Write down that `who` did `action`.

        Raises:
            DataError: the file cannot be written.
        """
        now = timestamp()
        with self._lock:
            self._log.append([AuditLine(now, who, action, details)])

    def lines(self) -> list[AuditLine]:
        """All lines, oldest first."""
        found: list[AuditLine] = self._log.read()
        return found
