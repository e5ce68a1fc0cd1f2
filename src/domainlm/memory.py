"""The most memory this process holds over a stretch of work, and giving back what it freed."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import threading

import psutil

_EVERY_S = 0.1


def release() -> None:
    """Collect garbage and hand freed memory back to the system.

    glibc keeps what a model or a training step has freed, in pieces; what comes next then adds to
    it. Elsewhere only the garbage is collected.
    """
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


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
