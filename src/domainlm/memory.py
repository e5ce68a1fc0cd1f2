"""The most memory this process holds over a stretch of work."""

from __future__ import annotations

import threading

import psutil

_EVERY_S = 0.1


class PeakMemory:
    """Samples resident memory from its making until `peak` is asked.

    The kernel's own high-water mark could be reset instead, but then whoever watches the process
    from outside would read too little.
    """

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._most = int(self._process.memory_info().rss)
        self._stop = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while not self._stop.wait(_EVERY_S):
            self._most = max(self._most, int(self._process.memory_info().rss))

    def peak(self) -> int:
        """Bytes; the watch ends."""
        self._stop.set()
        return max(self._most, int(self._process.memory_info().rss))
