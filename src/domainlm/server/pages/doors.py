"""Who may open a page: as for the API; a browser gets a session, which its forms need."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool

from domainlm.server.auth import Role, User
from domainlm.server.gate import begin_session, needs, site_of


def opens(role: Role) -> Callable[..., Awaitable[User]]:
    """A dependency: the user, who has at least this role and a token for the forms of the page."""
    allowed = Depends(needs(role))

    async def door(request: Request, user: User = allowed) -> User:
        token = getattr(request.state, "csrf", "")
        if not token and "authorization" not in request.headers:
            session = await run_in_threadpool(begin_session, request, site_of(request), user)
            request.state.csrf = session.csrf
        return user

    return door


def door(role: Role) -> list[Any]:
    """The dependencies of a router or a route that takes this role."""
    return [Depends(opens(role))]
