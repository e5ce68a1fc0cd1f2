"""The application: routers, headers of every response, and failures in one documented form."""

from __future__ import annotations

import contextlib
import logging
import time
import uuid
from collections.abc import AsyncIterator

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from domainlm import __version__
from domainlm.errors import DomainLMError
from domainlm.server import api, pages
from domainlm.server.failures import HttpFailure, body, status_of
from domainlm.server.gate import refuse_strangers
from domainlm.server.limits import BodyLimit
from domainlm.server.site import Site

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "font-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": CSP,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # With no-referrer the forms of our own pages would come from the origin "null".
    "Referrer-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_PROGRAMS = ("/api/", "/v1/", "/health", "/metrics", "/openapi.json")
_UPLOADS = ("/api/documents", "/documents/upload")
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
_ABOUT = """One domain, its arms and its feedback.

`/v1` speaks the protocol of OpenAI's clients; `/api` is domainlm's own. Every answer that is not a
success carries one error object. With a users file, send `Authorization: Bearer NAME:SECRET`.
"""
_log = logging.getLogger(__name__)


def create_app(site: Site) -> FastAPI:
    """The application that serves `site`, and closes it in the end."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        site.close()

    # The usual pages about the API load scripts from elsewhere.
    app = FastAPI(
        title="domainlm",
        version=__version__,
        description=_ABOUT,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.site = site
    for router in api.ROUTERS:
        app.include_router(router)
    for router in pages.routers(site):
        app.include_router(router, include_in_schema=False)
    app.add_exception_handler(DomainLMError, _failed)
    app.add_exception_handler(HTTPException, _failed)
    app.add_exception_handler(RequestValidationError, _failed)
    serve = site.config.serve
    app.add_middleware(UploadDoor, site=site)
    app.add_middleware(
        BodyLimit,
        most=serve.max_body_kb * 1024,
        uploads=_UPLOADS,
        # Boundaries and the names of the parts come on top.
        most_upload=serve.max_upload_mb * 2**20 + 2**16,
        seconds=serve.body_seconds,
    )
    app.add_middleware(Frame, site=site)
    return app


class UploadDoor:
    """Who is not signed in is refused before the upload: a form is read before its route's guards
    are asked, and strangers could fill the disk.
    """

    def __init__(self, app: ASGIApp, *, site: Site) -> None:
        self._app, self._site = app, site

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the request, or refuse it unread."""
        if scope["type"] == "http" and scope["path"] in _UPLOADS and scope["method"] == "POST":
            request = Request(scope)
            try:
                await refuse_strangers(request, self._site)
            except DomainLMError as error:
                response = await _failed(request, error)
                response.headers["Connection"] = "close"
                await response(scope, receive, send)
                return
        await self._app(scope, receive, send)


class Frame:
    """The outermost layer: headers, session cookies, counts, and a last answer to any failure."""

    def __init__(self, app: ASGIApp, *, site: Site) -> None:
        self._app, self._site = app, site

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        started, status = time.monotonic(), 0
        request_id = uuid.uuid4().hex[:16]

        async def framed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                headers["X-Request-Id"] = request_id
                if "cookie" in state:
                    headers.append("Set-Cookie", state["cookie"])
            await send(message)

        try:
            await self._app(scope, receive, framed)
        except Exception as error:  # the last place where whoever asked can get a sentence
            _log.error("%s %s failed", scope["method"], scope["path"], exc_info=error)
            if status:
                raise
            sentence = "the server failed at this; its log says more"
            await JSONResponse(body(500, sentence), 500)(scope, receive, framed)
        finally:
            # The template and not the path, and known methods: else anyone could fill the memory.
            route = getattr(scope.get("route"), "path", "none")
            metrics = self._site.metrics
            method = scope["method"] if scope["method"] in _METHODS else "other"
            metrics.requests.labels(method, route, str(status)).inc()
            metrics.request_s.labels(route).observe(time.monotonic() - started)


async def _failed(request: Request, error: Exception) -> Response:
    """Any failure as the error object, or as a page for a browser that asked for one."""
    refused = request.scope["state"].get("refused")
    if isinstance(refused, HttpFailure):
        error = refused
    status, message, code, param, headers = _told(error)
    if not request.url.path.startswith(_PROGRAMS):
        site: Site = request.app.state.site
        page = pages.error_page(site, request, status, message)
        if page is not None:
            page.headers.update(headers)
            return page
    return JSONResponse(body(status, message, code=code, param=param), status, headers)


def _told(error: Exception) -> tuple[int, str, str, str | None, dict[str, str]]:
    """Status, sentence, code, parameter and headers of a failure."""
    if isinstance(error, HttpFailure):
        return error.status, str(error), error.code, error.param, error.headers
    if isinstance(error, DomainLMError):
        return status_of(error), str(error), "", None, {}
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            reason = first.get("ctx", {}).get("error", "")
            return 422, f"the body is not JSON ({reason})", "invalid", None, {}
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        return 422, f"{where or 'the body'}: {first['msg']}", "invalid", where or None, {}
    if isinstance(error, HTTPException):
        return error.status_code, "", "", None, dict(error.headers or {})
    raise AssertionError(error)
