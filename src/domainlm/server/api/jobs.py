"""Long work: started, watched, cancelled; and the audit trail of all changes."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel

from domainlm.server.api.forms import Form
from domainlm.server.audit import AuditLine
from domainlm.server.failures import documented
from domainlm.server.gate import Admin, SiteHere, Viewer
from domainlm.server.jobs import Job, Kind

router = APIRouter(
    prefix="/api",
    tags=["jobs"],
    responses=documented(400, 401, 403, 404, 409, 413, 415, 422, 429),
)


class Start(Form):
    """What to do: `ingest` the documents, `run` the whole benchmark, `improve` on feedback."""

    kind: Kind


class JobList(BaseModel):
    """Jobs, newest first."""

    jobs: list[Job]


class Trail(BaseModel):
    """Changes, newest first."""

    lines: list[AuditLine]


@router.get("/jobs", response_model=JobList)
def jobs(site: SiteHere, user: Viewer, limit: Annotated[int, Query(ge=1, le=500)] = 50) -> JobList:
    """Jobs and how far they are."""
    return JobList(jobs=site.jobs.jobs(limit))


@router.post("/jobs", response_model=Job, status_code=202)
def start(wanted: Start, site: SiteHere, user: Admin) -> Job:
    """Start a job, or find the one of its kind that waits already."""
    job = site.jobs.start(wanted.kind, user.name)
    site.audit.note(user.name, "start job", job=job.id, kind=job.kind)
    return job


@router.get("/jobs/{job_id}", response_model=Job)
def job(job_id: str, site: SiteHere, user: Viewer) -> Job:
    """One job."""
    return site.jobs.job(job_id)


@router.post("/jobs/{job_id}/cancel", response_model=Job)
def cancel(job_id: str, site: SiteHere, user: Admin) -> Job:
    """End a job; what it has finished is kept."""
    ended = site.jobs.cancel(job_id)
    site.audit.note(user.name, "cancel job", job=ended.id, kind=ended.kind)
    return ended


@router.get("/audit", response_model=Trail)
def trail(site: SiteHere, user: Admin, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> Trail:
    """Who changed what."""
    return Trail(lines=site.audit.lines()[::-1][:limit])
