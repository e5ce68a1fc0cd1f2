"""Static files: the app's own, and the report's style sheet and script, so both look alike.

Only names of a fixed table are served, so no path of a request reaches the disk.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import re
from dataclasses import dataclass
from importlib import resources

from fastapi import APIRouter, Request, Response

from domainlm.report.html import style_and_script
from domainlm.server.failures import NotFound

_OWN = ("app.css", "app.js", "ask.js", "label.js", "theme.js", "htmx.min.js", "icon.svg")
_KINDS = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_DARK = re.compile(
    r"@media screen and \(prefers-color-scheme: dark\) \{\s*:root \{(.*?)\}\s*\}", re.S
)
_FOREVER = "public, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True)
class Asset:
    """A file as it is sent."""

    body: bytes
    zipped: bytes
    kind: str
    digest: str


@functools.cache
def assets() -> dict[str, Asset]:
    """All static files by name."""
    folder = resources.files("domainlm.server").joinpath("static")
    texts = {name: folder.joinpath(name).read_text("utf-8") for name in _OWN}
    style, script = style_and_script()
    texts |= {"family.css": themed(style), "report.js": script}
    return {name: _asset(name, text.encode()) for name, text in texts.items()}


def themed(style: str) -> str:
    """The report's style sheet, whose dark colours also follow a theme that was chosen."""
    found = _DARK.search(style)
    assert found is not None, "the report's style sheet has no dark colours"
    by_system = found.group(0).replace(":root {", ':root:not([data-theme="light"]) {', 1)
    chosen = f':root[data-theme="dark"] {{{found.group(1)}}}'
    return style.replace(found.group(0), f"{by_system}\n{chosen}")


def address(name: str) -> str:
    """Where a static file is; its digest is in it, so it may be kept for ever."""
    return f"/static/{name}?{assets()[name].digest}"


def router() -> APIRouter:
    """The route of static files."""
    routes = APIRouter(include_in_schema=False)

    @routes.get("/static/{name}")
    def static(name: str, request: Request) -> Response:
        found = assets().get(name)
        if found is None:
            raise NotFound(f"there is no file {name[:80]!r}")
        headers = {"Cache-Control": _FOREVER, "Vary": "Accept-Encoding"}
        if "gzip" in request.headers.get("accept-encoding", ""):
            headers["Content-Encoding"] = "gzip"
            return Response(found.zipped, media_type=found.kind, headers=headers)
        return Response(found.body, media_type=found.kind, headers=headers)

    return routes


def _asset(name: str, body: bytes) -> Asset:
    kind = _KINDS[name.rpartition(".")[2]]
    digest = hashlib.sha256(body).hexdigest()[:12]
    return Asset(body, gzip.compress(body, 9, mtime=0), f"{kind}; charset=utf-8", digest)
