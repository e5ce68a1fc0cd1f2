"""Runs and verdict: the report live, all runs, two of them compared; and jobs."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse
from markupsafe import Markup

from domainlm.config import ARMS
from domainlm.errors import DataError
from domainlm.report import charts
from domainlm.report import format as fmt
from domainlm.report.html import to_content, to_html
from domainlm.schema import Contrast
from domainlm.server.failures import NotFound
from domainlm.server.jobs import KINDS, Job
from domainlm.server.pages.desk import Desk
from domainlm.server.pages.doors import door
from domainlm.server.pages.history import Finished, compare, scores_over
from domainlm.server.pages.trends import history
from domainlm.server.site import Site

_DATA_BYTES = 3_000_000
"""Most bytes of questions and answers in a live report."""
_TITLES = {"ingest": "Indexing the documents", "run": "Benchmark run", "improve": "Improve round"}
_BACK = {"ingest": "/documents", "run": "/runs", "improve": "/models"}


@dataclass(frozen=True, slots=True)
class JobView:
    """A job as pages show it."""

    id: str
    title: str
    status: str
    said: str
    live: bool
    stage: str
    done: int
    total: int
    note: str
    stages: tuple[str, ...]
    error: str
    result: str
    curve: Markup | None


def router(desk: Desk) -> APIRouter:
    """The routes of this page."""
    site = desk.site
    routes = APIRouter(include_in_schema=False, dependencies=door("viewer"))

    @routes.get("/runs")
    def runs(request: Request) -> Response:
        found = desk.briefs.all()
        oldest = sorted(found, key=lambda b: b.time)
        names = [b.time[:16].replace("T", " ") for b in oldest]
        return desk.renderer.page(
            request,
            "runs.html",
            "runs",
            runs=found,
            chart=history(names, scores_over(oldest), fmt.arm_slots(ARMS)),
            **jobs_for(desk, "run"),
        )

    @routes.get("/runs/compare")
    def versus(request: Request, a: str = "", b: str = "") -> Response:
        before, after = _one(desk, a), _one(desk, b)
        return desk.renderer.page(
            request,
            "versus.html",
            "runs",
            before=before,
            after=after,
            found=compare(before.result, after.result),
            contrasts=_contrasts(site, before.key, after.key),
        )

    @routes.get("/runs/{key}")
    def run(request: Request, key: str) -> Response:
        found = _one(desk, key)
        content = to_content(found.result, max_bytes=_DATA_BYTES)
        title = found.result.name
        return desk.renderer.page(
            request, "run.html", "runs", run=found, content=content, title=title
        )

    @routes.get("/runs/{key}/report.html")
    def report(key: str) -> Response:
        found = _one(desk, key)
        headers = {"Content-Disposition": 'attachment; filename="report.html"'}
        html = to_html(found.result).encode("utf-8", "replace")
        return Response(html, media_type="text/html; charset=utf-8", headers=headers)

    @routes.get("/jobs")
    def jobs(request: Request, of: str = "") -> Response:
        # What a job has finished is shown by the page it belongs to.
        shown = jobs_for(desk, of)
        headers = {"HX-Refresh": "true"} if not shown["jobs_live"] else {}
        return desk.renderer.page(request, "jobs.html", "runs", headers=headers, **shown)

    @routes.post("/jobs/{kind}", dependencies=door("admin"))
    def start(request: Request, kind: str) -> Response:
        if kind not in KINDS:
            raise NotFound(f"there is no job {kind[:40]!r}; there are {', '.join(KINDS)}")
        made = site.jobs.start(kind, request.state.user.name)
        site.audit.note(request.state.user.name, "start", job=made.id, kind=kind)
        return RedirectResponse(_BACK[kind], 303)

    @routes.post("/jobs/{job_id}/cancel", dependencies=door("admin"))
    def cancel(request: Request, job_id: str) -> Response:
        ended = site.jobs.cancel(job_id)
        site.audit.note(request.state.user.name, "cancel", job=job_id)
        return RedirectResponse(_BACK[ended.kind], 303)

    return routes


def jobs_for(desk: Desk, kind: str) -> dict[str, Any]:
    """For a template: jobs of a kind that run or wait, and the newest that ended."""
    mine = [j for j in desk.site.jobs.jobs() if kind in ("", j.kind)]
    live = [j for j in mine if j.status in ("queued", "running")]
    shown = [*live, *[j for j in mine if j not in live][: 0 if live else 1]]
    return {"jobs": [_view(desk, j) for j in shown], "jobs_live": bool(live), "jobs_of": kind}


def _view(desk: Desk, job: Job) -> JobView:
    live = job.status in ("queued", "running")
    ended = fmt.moment(job.ended[:16] + "+00:00") if job.ended else ""
    said = {"queued": "waits for the job before it", "running": "running"}.get(
        job.status, f"{job.status} {ended}"
    )
    return JobView(
        job.id,
        _TITLES.get(job.kind, job.kind),
        job.status,
        said,
        live,
        job.stage,
        job.done,
        job.total,
        job.note,
        tuple(name for name, _ in job.stages[:-1]) if live else (),
        job.error,
        _result(job.kind, job.result),
        _curve(desk, job) if job.status == "running" else None,
    )


def _curve(desk: Desk, job: Job) -> Markup | None:
    """The losses of what is trained right now."""
    name = job.stage.partition("-")[2] or job.stage
    slot = fmt.arm_slots(ARMS).get(name, 0)
    return charts.losses_by_step(name, desk.site.jobs.losses(job.id), slot)


def _result(kind: str, result: Any) -> str:
    if not isinstance(result, dict):
        return ""
    if kind == "run":
        return str(result.get("sentence", ""))
    if kind == "improve":
        reasons = result.get("reasons") or [""]
        what = "promoted" if result.get("promoted") else "not promoted"
        return f"The challenger was {what}. {reasons[0]}"
    left = len(result.get("quarantined") or ())
    aside = f", {left} set aside" if left else ""
    return f"{result.get('documents', 0):,} documents in {result.get('chunks', 0):,} chunks{aside}."


def _one(desk: Desk, key: str) -> Finished:
    return Finished(key or desk.site.config.name, desk.site.runs.result(key))


def _contrasts(site: Site, before: str, after: str) -> list[Contrast]:
    """Each arm against itself; none where the runs have no question in common."""
    with contextlib.suppress(DataError):
        return [pair.whole for pair in site.runs.compare(before, after).pairs]
    return []
