"""Limits of rate and size: token buckets by user or address, and bodies that end in time."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import OrderedDict

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from domainlm.server.failures import Busy, HttpFailure, body

_BUCKETS = 4_096
_SLOWEST = 100_000
"""Bytes a second that an upload must keep up, beside the time that every body has."""


class Rates:
    """A bucket for each key, refilled evenly; it holds a minute's worth."""

    def __init__(self, per_minute: float) -> None:
        self._most, self._per_s = float(per_minute), per_minute / 60
        self._lock = threading.Lock()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str, cost: float = 1.0, *, only_look: bool = False) -> None:
        """Take from the bucket of `key`, or only see whether one could.

        Raises:
            Busy: there is too little in it.
        """
        now = time.monotonic()
        with self._lock:
            left, at = self._buckets.pop(key, (self._most, now))
            left = min(self._most, left + (now - at) * self._per_s)
            enough = left >= cost
            self._buckets[key] = (left - cost if enough and not only_look else left, now)
            while len(self._buckets) > _BUCKETS:
                self._buckets.popitem(last=False)
        if not enough:
            raise Busy(
                f"more than {self._most:g} requests a minute; wait as long as Retry-After says",
                (cost - left) / self._per_s,
            )


class BodyLimit:
    """Middleware that refuses a body above its limit or too slow to arrive, before and while it is
    read.
    """

    def __init__(
        self, app: ASGIApp, *, most: int, uploads: tuple[str, ...], most_upload: int, seconds: float
    ) -> None:
        self._app, self._most, self._seconds = app, most, seconds
        self._uploads, self._most_upload = uploads, most_upload

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the request with a `receive` that counts."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        upload = scope["path"] in self._uploads and scope["method"] == "POST"
        most = self._most_upload if upload else self._most
        declared = next((v for k, v in scope["headers"] if k == b"content-length"), b"0")
        if not declared.isdigit() or int(declared) > most:
            await _refuse(scope, receive, send, too_large(most))
            return
        # Without a body there is nothing to wait for but the hanging up.
        whole = declared == b"0" and all(k != b"transfer-encoding" for k, _ in scope["headers"])
        seen, begun = 0, 0.0

        async def counted() -> Message:
            nonlocal seen, whole, begun
            if whole:
                return await receive()
            # From the first look on: a handler may have had other things to do before.
            begun = begun or time.monotonic()
            allowed = self._seconds + (seen / _SLOWEST if upload else 0.0)
            left = begun + allowed - time.monotonic()
            failure = too_slow(self._seconds)
            if left > 0:
                with contextlib.suppress(TimeoutError):
                    message = await asyncio.wait_for(receive(), left)
                    seen += len(message.get("body", b""))
                    if seen <= most:
                        whole = not message.get("more_body", False)
                        return message
                    failure = too_large(most)
            # Frameworks turn what is raised here into a failure of their own.
            scope["state"]["refused"] = failure
            raise failure

        await self._app(scope, counted, send)


async def _refuse(scope: Scope, receive: Receive, send: Send, failure: HttpFailure) -> None:
    """Answer without reading; the connection is closed, as the body would follow on it."""
    content = body(failure.status, str(failure), code=failure.code)
    response = JSONResponse(content, failure.status, {"Connection": "close"})
    await response(scope, receive, send)


def too_slow(seconds: float) -> HttpFailure:
    """The failure of a body that did not arrive in time."""
    return HttpFailure(
        408,
        f"the body did not arrive within serve.body_seconds={seconds:g}; send it faster",
        code="too_slow",
        headers={"Connection": "close"},
    )


def too_large(most: int) -> HttpFailure:
    """The failure of a body above `most` bytes."""
    return HttpFailure(
        413, f"the body is larger than {most:,} bytes; send less at a time", code="too_large"
    )
