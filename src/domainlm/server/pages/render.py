"""Templates to pages: one environment that escapes everything, and what every page shares."""

from __future__ import annotations

import functools
from importlib import resources
from typing import Any

import jinja2
from fastapi import Request
from fastapi.responses import HTMLResponse
from markupsafe import Markup

from domainlm.config import ARMS
from domainlm.report import format as fmt
from domainlm.report.html import add_filters
from domainlm.server.auth import User
from domainlm.server.pages.assets import address
from domainlm.server.site import Site

PLACES = (
    ("Use", (("ask", "/ask", "Ask"), ("compare", "/compare", "Compare"))),
    ("Judge", (("label", "/label", "Label queue"), ("feedback", "/feedback", "Feedback"))),
    ("Decide", (("runs", "/runs", "Runs and verdict"), ("roi", "/roi", "ROI"))),
    ("Run", (("models", "/models", "Models"), ("documents", "/documents", "Documents"))),
)


@functools.cache
def environment() -> jinja2.Environment:
    """The templates, with the report's filters."""
    folder = resources.files("domainlm.server").joinpath("templates")

    def read(name: str) -> str | None:
        found = folder.joinpath(name)
        return found.read_text("utf-8") if found.is_file() else None

    env = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FunctionLoader(read),
    )
    add_filters(env)
    env.globals |= {"asset": address, "places": PLACES, "slots": fmt.arm_slots(ARMS)}
    return env


def is_fragment(request: Request) -> bool:
    """Whether a part of a page is wanted, to be put into the page that is open."""
    headers = request.headers
    # Going back in the browser asks in the same way, for the whole page.
    part = "hx-request" in headers and "hx-history-restore-request" not in headers
    return part or "x-fragment" in headers


class Renderer:
    """Pages of one site."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def page(
        self,
        request: Request,
        template: str,
        here: str = "",
        *,
        status: int = 200,
        headers: dict[str, str] | None = None,
        **context: Any,
    ) -> HTMLResponse:
        """A page, or a part of one, for whoever asks."""
        return HTMLResponse(
            self.html(request, template, here, **context),
            status,
            headers={"Cache-Control": "no-store", "Vary": "HX-Request"} | (headers or {}),
        )

    def html(self, request: Request, template: str, here: str = "", **context: Any) -> Markup:
        """The text of a page; everything in `context` is escaped unless it is `Markup`."""
        user: User | None = getattr(request.state, "user", None)
        shared = {
            "here": here,
            "title": _TITLES.get(here, "domainlm"),
            "domain": self._site.config.name,
            "user": user,
            "can_leave": self._site.users.required,
            "csrf": getattr(request.state, "csrf", ""),
        }
        made = environment().get_template(template).render(shared | context)
        return Markup(made)  # noqa: S704


_TITLES = {key: name for _, pages in PLACES for key, _, name in pages}
