"""Documents: upload, what was set aside and why, delete; and one document opened at a span."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, File, Form, Request, Response, UploadFile
from fastapi.responses import RedirectResponse

from domainlm.errors import DomainLMError
from domainlm.schema import Document, Quarantined
from domainlm.server.failures import NotFound
from domainlm.server.pages.citing import place
from domainlm.server.pages.desk import Desk
from domainlm.server.pages.doors import door
from domainlm.server.pages.excerpt import excerpt, page_of, place_name
from domainlm.server.pages.render import is_fragment
from domainlm.server.pages.runs import jobs_for
from domainlm.server.sheet import page_png

_A_PAGE = 100
_GONE = (
    "The document {} is not there any more: it was deleted or renamed after the answer was written."
    " The answer keeps its text, but its source can no longer be checked; ask again."
)


def router(desk: Desk) -> APIRouter:
    """The routes of this page."""
    site = desk.site
    routes = APIRouter(include_in_schema=False, dependencies=door("viewer"))

    def page(
        request: Request, q: str = "", number: int = 1, status: int = 200, **context: Any
    ) -> Response:
        ground = site.engine.ground
        wanted = q.casefold()
        found = [
            d
            for d in ground.documents.values()
            if not wanted or wanted in f"{d.id}\n{d.title}".casefold()
        ]
        pages = max(1, -(-len(found) // _A_PAGE))
        number = min(max(1, number), pages)
        part = found[(number - 1) * _A_PAGE : number * _A_PAGE]

        def link(n: int) -> str:
            return "/documents?" + urlencode({"q": q, "page": n})

        shown: dict[str, Any] = {
            "documents": [_row(d) for d in part],
            "total": len(found),
            "quarantined": _quarantined(desk),
            "q": q,
            "page": number,
            "pages": pages,
            "page_link": link,
            "message": "",
            "message_kind": "",
            "refused": (),
            "most": f"{site.config.serve.max_upload_mb} MB",
            **jobs_for(desk, "ingest"),
        }
        return desk.renderer.page(
            request, "documents.html", "documents", status=status, **(shown | context)
        )

    @routes.get("/documents")
    def documents(request: Request, q: str = "", said: str = "") -> Response:
        number = request.query_params.get("page", "1")
        message = _SAID.get(said, "")
        return page(
            request,
            q.strip()[:200],
            int(number) if number.isdigit() else 1,
            message=message,
            message_kind="good" if message else "",
        )

    @routes.post("/documents/upload", dependencies=door("admin"))
    def upload(request: Request, files: Annotated[list[UploadFile], File()]) -> Response:
        user = request.state.user.name
        kept, refused = [], []
        for file in files:
            name = file.filename or ""
            try:
                made = site.papers.add(name, file.file, user)
            except DomainLMError as error:
                refused.append((name, str(error)))
                continue
            refused += [(q.source, f"{q.reason}: {q.detail}") for q in made.quarantined]
            if made.kept:
                kept.append(made.name)
                site.audit.note(user, "upload", document=made.name)
        if kept:
            site.jobs.start("ingest", user)
        if kept and not refused:
            return RedirectResponse("/documents?said=uploaded", 303)
        message = f"{len(kept)} of {len(files)} files were taken"
        message += " and are being indexed." if kept else "; nothing was changed."
        return page(
            request,
            status=200 if kept else 422,
            message=message,
            message_kind="bad",
            refused=refused,
        )

    @routes.post("/documents/delete", dependencies=door("admin"))
    def delete(request: Request, source: Annotated[str, Form()]) -> Response:
        user = request.state.user.name
        name, _ = site.papers.remove(source)
        site.audit.note(user, "delete", document=name)
        site.jobs.start("ingest", user)
        return RedirectResponse("/documents?said=deleted", 303)

    @routes.get("/documents/view")
    def view(request: Request, id: str, start: int = 0, end: int = 0) -> Response:  # noqa: A002
        document = _document(desk, id)
        span = (start, end) if end > start else None
        number = page_of(document, start) if _pdf(desk, document) else None
        changed = ""
        if end > len(document.text):
            changed = (
                "This document has changed since the answer was written; the marked place may be "
                "another one."
            )
        context: dict[str, Any] = {
            "document": document,
            "parts": excerpt(document.text, start, end),
            "span": span or (0, 0),
            "where": place_name(document, start) if span else "",
            "page": number if span else None,
            "picture_open": True,
            "changed": changed,
            "title": document.title or document.id,
        }
        template = "source.html" if is_fragment(request) else "document.html"
        return desk.renderer.page(request, template, "documents", **context)

    @routes.get("/documents/page")
    def picture(id: str, start: int = 0, end: int = 0) -> Response:  # noqa: A002
        document = _document(desk, id)
        path, number = _pdf(desk, document), page_of(document, start)
        if path is None or number is None:
            raise NotFound(f"document {id[:120]!r} has no pages to draw")
        png = page_png(path, number, document.text[max(0, start) : max(0, end)])
        headers = {"Cache-Control": "private, max-age=3600"}
        return Response(png, media_type="image/png", headers=headers)

    return routes


_SAID = {
    "uploaded": "Taken. The index is being brought up to date; questions are answered meanwhile.",
    "deleted": "Taken out of the folder and kept beside the run. The index is being brought up to "
    "date.",
}


def _row(document: Document) -> dict[str, Any]:
    return {
        "id": document.id,
        "title": document.title,
        "source": document.source,
        "kind": Path(document.source).suffix.lstrip(".").upper()[:8],
        "characters": len(document.text),
        "href": place(document.id, 0, 0).removesuffix("#hit"),
    }


def _quarantined(desk: Desk) -> list[dict[str, Any]]:
    """Files in the folder that could not be read, and uploads that were refused and not mended."""
    ground = desk.site.engine.ground
    good = {d.source for d in ground.documents.values()}
    inside = [(q, True) for q in ground.quarantined]
    known = good | {q.source for q in ground.quarantined}
    refused: dict[str, Quarantined] = {}
    for refusal in desk.site.papers.refusals():
        if refusal.file.source not in known:
            refused.setdefault(refusal.file.source, refusal.file)
    return [
        {"source": q.source, "reason": q.reason, "detail": q.detail, "inside": lies_there}
        for q, lies_there in (*inside, *((q, False) for q in refused.values()))
    ][:_A_PAGE]


def _document(desk: Desk, doc_id: str) -> Document:
    found = desk.site.engine.ground.documents.get(doc_id)
    if found is None:
        raise NotFound(_GONE.format(repr(doc_id[:120])))
    return found


def _pdf(desk: Desk, document: Document) -> Path | None:
    """The file of a PDF that still lies in the documents folder."""
    root = desk.site.config.documents.resolve()
    path = (root / document.source).resolve()
    inside = path.is_relative_to(root) and path.is_file()
    return path if inside and path.suffix.lower() == ".pdf" else None
