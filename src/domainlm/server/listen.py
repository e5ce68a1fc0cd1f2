"""Listening: on loopback, or where users must sign in; with a graceful end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from domainlm.config import Config
from domainlm.errors import ConfigError
from domainlm.server.app import create_app
from domainlm.server.auth import users_of
from domainlm.server.gate import is_loopback
from domainlm.server.site import Site, open_site

HEAD_S = 10.0
"""A connection without a new request between two looks so far apart is closed."""
GRACE_S = 20
"""Seconds that questions in flight may take to end when the server is stopped."""


def listen(config: Config, say: Callable[[str], None]) -> None:
    """Serve until interrupted.

    Raises:
        ConfigError: the host is not this machine and nobody would have to sign in, or the port is
            taken.
    """
    serve = config.serve
    if not is_loopback(serve.host) and not users_of(config).required:
        raise ConfigError(
            f"host {serve.host} is open to other machines, and there are no users; add one "
            "with `domainlm users add`, or stay on 127.0.0.1"
        )
    bound = _bind(serve.host, serve.port)
    host = f"[{serve.host}]" if ":" in serve.host else serve.host
    say(f"http://{host}:{bound.getsockname()[1]}  (Ctrl-C ends it)")
    server_of(open_site(config)).run(sockets=[bound])


def server_of(site: Site) -> uvicorn.Server:
    """A server for a site, not yet listening."""
    return uvicorn.Server(
        uvicorn.Config(
            create_app(site),
            http=Impatient,
            log_level="warning",
            # Paths may hold what people typed; the audit trail says who changed what.
            access_log=False,
            server_header=False,
            # A header could claim to come from this machine.
            proxy_headers=False,
            timeout_graceful_shutdown=GRACE_S,
            h11_max_incomplete_event_size=64 * 1024,
        )
    )


class Impatient(AutoHTTPProtocol):  # type: ignore[misc,valid-type]
    """Uvicorn's protocol, which closes connections that do not say what they want: silent ones
    would stay for ever and use up the files that the process may open.
    """

    _seen: object = ()

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Begin to look at the clock."""
        super().connection_made(transport)
        self.loop.call_later(HEAD_S, self._look)

    def _look(self) -> None:
        if self.transport.is_closing():
            return
        # Between requests uvicorn's own clock runs, but not once the next one has begun to arrive.
        waits = self.cycle is None or self.cycle.response_complete
        if waits and self.cycle is self._seen:
            self.transport.close()
            return
        self._seen = self.cycle
        self.loop.call_later(HEAD_S, self._look)


def _bind(host: str, port: int) -> socket.socket:
    """Take the port now, so that a taken one is a sentence and no trace.

    Raises:
        ConfigError: it is taken or not allowed.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Without the protocol asyncio leaves Nagle on, and small answers wait 40 ms.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise ConfigError(
            f"cannot listen on {host} port {port} ({error.strerror}); choose another with --port"
        ) from None
    return bound
