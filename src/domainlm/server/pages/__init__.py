"""The pages of the web app: routers that answer with HTML."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from domainlm.server.site import Site


def routers(site: Site) -> list[APIRouter]:
    """The routers of all pages."""
    return []


def error_page(site: Site, request: Request, status: int, message: str) -> Response | None:
    """A failure as a page, for a browser that asked for one; None where JSON will do."""
    return None
