"""Documents: listed, read, uploaded, deleted; and those that were set aside."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, UploadFile
from pydantic import BaseModel

from domainlm.schema import Anchor, Document
from domainlm.server.failures import NotFound, documented
from domainlm.server.gate import Admin, SiteHere, Viewer

router = APIRouter(
    prefix="/api",
    tags=["documents"],
    responses=documented(400, 401, 403, 404, 409, 413, 415, 422, 429, 503),
)


class DocumentCard(BaseModel):
    """A document in a list."""

    id: str
    title: str
    source: str
    media_type: str
    characters: int
    sha256: str


class DocumentOut(DocumentCard):
    """A document with its text and the named places in it."""

    text: str
    anchors: list[Anchor]
    metadata: dict[str, str]


class Documents(BaseModel):
    """A page of documents, ordered by id."""

    total: int
    documents: list[DocumentCard]


class SetAside(BaseModel):
    """A file that could not be read; `time` and `by` are empty for files of the folder itself."""

    source: str
    reason: str
    detail: str
    time: str = ""
    by: str = ""


class Quarantine(BaseModel):
    """Everything that was set aside."""

    files: list[SetAside]


class Uploaded(BaseModel):
    """What became of an upload. `job` is the job that indexes it; empty where nothing was kept."""

    name: str
    kept: bool
    documents: list[DocumentCard]
    set_aside: list[SetAside]
    job: str


class Deleted(BaseModel):
    """What was deleted: the whole file, which may hold several documents."""

    source: str
    job: str


@router.get("/documents", response_model=Documents)
def documents(
    site: SiteHere,
    user: Viewer,
    q: Annotated[str, Query(max_length=200, description="Part of a title or id.")] = "",
    offset: Annotated[int, Query(ge=0, le=10**9)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Documents:
    """The documents that answers come from, as of the last indexing."""
    word = q.casefold()
    found = [
        d
        for _, d in sorted(site.engine.ground.documents.items())
        if word in d.id.casefold() or word in d.title.casefold()
    ]
    page = found[offset : offset + limit]
    return Documents(total=len(found), documents=[_card(d) for d in page])


@router.get("/quarantine", response_model=Quarantine)
def quarantine(site: SiteHere, user: Viewer) -> Quarantine:
    """Files that could not be read, and why: uploads first, newest first."""
    uploads = [
        SetAside(
            source=r.file.source, reason=r.file.reason, detail=r.file.detail, time=r.time, by=r.by
        )
        for r in site.papers.refusals()
    ]
    folder = [
        SetAside(source=f.source, reason=f.reason, detail=f.detail)
        for f in site.engine.ground.quarantined
    ]
    return Quarantine(files=uploads + folder)


@router.post("/documents", response_model=Uploaded, status_code=201)
def upload(
    file: UploadFile,
    site: SiteHere,
    user: Admin,
    replace: Annotated[bool, Query(description="Take the place of a file of that name.")] = False,
) -> Uploaded:
    """Add a document file; it is read in a process of its own, then indexed by a job.

    A file that cannot be read is not kept: `kept` is false and `set_aside` says why.
    """
    made = site.papers.add(file.filename or "", file.file, user.name, replace=replace)
    job = site.jobs.start("ingest", user.name).id if made.kept else ""
    if made.kept:
        site.audit.note(user.name, "upload", file=made.name, job=job)
    return Uploaded(
        name=made.name,
        kept=made.kept,
        documents=[_card(d) for d in made.documents],
        set_aside=[
            SetAside(source=f.source, reason=f.reason, detail=f.detail) for f in made.quarantined
        ],
        job=job,
    )


@router.get("/documents/{doc_id:path}", response_model=DocumentOut)
def document(doc_id: str, site: SiteHere, user: Viewer) -> DocumentOut:
    """One document with its whole text."""
    found = site.engine.ground.documents.get(doc_id)
    if found is None:
        raise NotFound(f"there is no document {doc_id[:200]!r}; it may have been deleted")
    return DocumentOut(
        **_card(found).model_dump(),
        text=found.text,
        anchors=list(found.anchors),
        metadata=found.metadata,
    )


@router.delete("/documents/{doc_id:path}", response_model=Deleted)
def delete(doc_id: str, site: SiteHere, user: Admin) -> Deleted:
    """Take a document's file out of the folder; it is kept aside, and a job updates the index."""
    source, kept = site.papers.remove(doc_id)
    job = site.jobs.start("ingest", user.name).id
    site.audit.note(user.name, "delete", file=source, kept=str(kept), job=job)
    return Deleted(source=source, job=job)


def _card(document: Document) -> DocumentCard:
    return DocumentCard(
        id=document.id,
        title=document.title,
        source=document.source,
        media_type=document.media_type,
        characters=len(document.text),
        sha256=document.sha256,
    )
