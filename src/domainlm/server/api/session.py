"""Signing in and out, for browsers and for programs that keep cookies."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import BaseModel, StringConstraints

from domainlm.server.api.forms import Form
from domainlm.server.auth import LOCAL, Role
from domainlm.server.failures import documented
from domainlm.server.gate import (
    SiteHere,
    Viewer,
    begin_session,
    end_session,
    refuse_other_hosts,
    refuse_other_sites,
    sign_in,
)

router = APIRouter(
    prefix="/api",
    tags=["session"],
    responses=documented(400, 401, 403, 413, 415, 422, 429),
)


class Credentials(Form):
    """A user's name and secret."""

    name: Annotated[str, StringConstraints(max_length=200)]
    secret: Annotated[str, StringConstraints(max_length=1000)]


class Me(BaseModel):
    """Who is signed in; `csrf` goes into the header X-CSRF-Token of whatever changes something."""

    name: str
    role: Role
    csrf: str


@router.get("/me", response_model=Me)
def me(request: Request, user: Viewer) -> Me:
    """Who you are."""
    return Me(name=user.name, role=user.role, csrf=getattr(request.state, "csrf", ""))


@router.post("/session", response_model=Me)
async def begin(given: Credentials, request: Request, site: SiteHere) -> Me:
    """Sign in; the session comes as a cookie."""
    refuse_other_hosts(request, site)
    refuse_other_sites(request)
    user = await sign_in(request, site, given.name, given.secret) if site.users.required else LOCAL
    session = begin_session(request, site, user)
    site.audit.note(user.name, "sign in")
    return Me(name=user.name, role=user.role, csrf=session.csrf)


@router.delete("/session", status_code=204)
def end(request: Request, site: SiteHere, user: Viewer) -> None:
    """Sign out."""
    end_session(request, site)
