"""Signing in and out."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from fastapi import APIRouter, Form, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse

from domainlm.server.failures import HttpFailure
from domainlm.server.gate import (
    begin_session,
    end_session,
    find_session,
    refuse_other_hosts,
    refuse_other_sites,
    sign_in,
)
from domainlm.server.pages.desk import Desk
from domainlm.server.pages.doors import door

_LONGEST = 400


def router(desk: Desk) -> APIRouter:
    """The routes of signing in and out; they take no session."""
    site = desk.site
    routes = APIRouter(include_in_schema=False)

    def form(request: Request, onward: str, message: str = "", status: int = 200) -> Response:
        return desk.renderer.page(
            request, "login.html", status=status, next=onward, message=message, message_kind="bad"
        )

    @routes.get("/login")
    def login(request: Request, next: str = "/ask") -> Response:  # noqa: A002
        onward = within(next)
        if not site.users.required or find_session(request, site):
            return RedirectResponse(onward, 303)
        return form(request, onward)

    @routes.post("/login")
    async def enter(
        request: Request,
        name: Annotated[str, Form()] = "",
        secret: Annotated[str, Form()] = "",
        next: Annotated[str, Form()] = "/ask",  # noqa: A002
    ) -> Response:
        refuse_other_hosts(request, site)
        refuse_other_sites(request)
        onward = within(next)
        try:
            user = await sign_in(request, site, name[:_LONGEST].strip(), secret[:_LONGEST])
        except HttpFailure as error:
            return form(request, onward, str(error), error.status)
        await run_in_threadpool(begin_session, request, site, user)
        site.audit.note(user.name, "sign in")
        return RedirectResponse(onward, 303)

    @routes.get("/csrf", dependencies=door("viewer"))
    def token(request: Request) -> dict[str, str]:
        return {"csrf": request.state.csrf}

    @routes.post("/logout", dependencies=door("viewer"))
    def leave(request: Request) -> Response:
        end_session(request, site)
        return RedirectResponse("/login" if site.users.required else "/ask", 303)

    return routes


def within(address: str) -> str:
    """An address of this site, or the first page where it leads elsewhere."""
    parts = urlsplit(address.replace("\\", "/"))
    inside = address.startswith("/") and not parts.scheme and not parts.netloc
    plain = address.isprintable() and len(address) < 2_000
    return address if inside and plain and not address.startswith("//") else "/ask"
