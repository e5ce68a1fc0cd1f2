"""The pages of the web app: routers that answer with HTML."""

from __future__ import annotations

from http import HTTPStatus
from urllib.parse import urlencode

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from domainlm.server.failures import body
from domainlm.server.pages import (
    ask,
    assets,
    compare,
    documents,
    feedback,
    label,
    login,
    models,
    roi,
    runs,
)
from domainlm.server.pages.desk import desk_of
from domainlm.server.pages.render import Renderer, is_fragment
from domainlm.server.site import Site


def routers(site: Site) -> list[APIRouter]:
    """The routers of all pages."""
    desk = desk_of(site)
    pages = (ask, compare, label, feedback, runs, roi, models, documents, login)
    return [assets.router(), *(page.router(desk) for page in pages)]


def error_page(site: Site, request: Request, status: int, message: str) -> Response | None:
    """A failure as a page, for a browser that asked for one; None where JSON will do."""
    if is_fragment(request) or "text/html" not in request.headers.get("accept", ""):
        return None
    if status == 401 and request.method == "GET":
        query = f"?{request.url.query}" if request.url.query else ""
        onward = urlencode({"next": request.url.path + query})
        return RedirectResponse(f"/login?{onward}", 303)
    if status == 401:
        message = (
            "Your session has ended and nothing was changed. Sign in again, go back in the browser "
            "and repeat: what you typed is kept."
        )
    return Renderer(site).page(
        request,
        "error.html",
        status=status,
        code=status,
        title=HTTPStatus(status).phrase if status in set(HTTPStatus) else "Failed",
        heading=_HEADINGS.get(status, "This did not work"),
        message=message or body(status)["error"]["message"],
    )


_HEADINGS = {
    401: "Sign in again",
    403: "Not allowed",
    404: "Not found",
    409: "Not as things stand",
    413: "Too large",
    429: "Too many at once",
    503: "Not available now",
}
