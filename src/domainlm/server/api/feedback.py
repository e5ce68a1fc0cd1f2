"""What people say of answers: posted, listed, taken back, exported."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from fastapi.responses import FileResponse
from pydantic import BaseModel, Field, StringConstraints
from starlette.background import BackgroundTask

from domainlm.feedback.events import ADJUDICATOR, MAX_NAME, MAX_REASON, MAX_TEXT
from domainlm.feedback.exchange import export_log
from domainlm.feedback.log import EventLog
from domainlm.feedback.record import Words
from domainlm.schema import Actor, EventKind, FeedbackEvent
from domainlm.server.api.forms import Form
from domainlm.server.failures import HttpFailure, documented
from domainlm.server.gate import Admin, Rater, SiteHere, Viewer
from domainlm.server.opinions import Listed

router = APIRouter(
    prefix="/api/feedback",
    tags=["feedback"],
    responses=documented(400, 401, 403, 404, 409, 413, 415, 422, 429),
)
Name = Annotated[str, StringConstraints(max_length=MAX_NAME)]


class Opinion(Form):
    """One thing that someone says, of answers by id or of a finished run's answers.

    Give `answers` (ids, in the order in which they were shown) or `question_id` with `arms`; and
    exactly one of `thumb`, `rating`, `edit`, `prefer`, `rank` and `flag`. `prefer` and `rank` name
    answers by id (arms, with `question_id`); `prefer` may also be `tie` or `both_bad`.

    With an `id` of your own, a post that is sent again adds nothing.
    """

    answers: list[Name] = Field(default=[], max_length=20)
    question_id: Name = ""
    arms: list[Name] = Field(default=[], max_length=20)
    thumb: Literal["", "up", "down"] = ""
    rating: int | None = Field(None, ge=1, le=5, strict=True)
    edit: Annotated[str, StringConstraints(max_length=MAX_TEXT)] = ""
    prefer: Name = ""
    rank: list[Name] = Field(default=[], max_length=20)
    flag: Annotated[str, StringConstraints(max_length=MAX_REASON)] = ""
    id: Name = ""
    rubric: Name = ""
    supersedes: Name = ""
    role: Name = ""


class Kept(BaseModel):
    """What was kept: on the disk, in the chain."""

    id: str
    time: str
    hash: str


class EventOut(BaseModel):
    """One event; `counts` is false once it was retracted or replaced."""

    id: str
    time: str
    kind: EventKind
    by: str
    role: str
    question_id: str
    question: str
    split: str
    arms: list[str]
    answers: list[str]
    value: str
    text: str
    edit: str
    counts: bool
    supersedes: str


class Events(BaseModel):
    """A page of events, newest first; `total` is how many there are in all that match."""

    total: int
    events: list[EventOut]


class Reason(Form):
    """Why."""

    reason: Annotated[str, StringConstraints(max_length=MAX_REASON)] = ""


class Chain(BaseModel):
    """What a walk over the log found; `broken` is empty, or says where and why."""

    events: int
    head: str
    broken: str


@router.post("", response_model=Kept, status_code=201)
def post(said: Opinion, site: SiteHere, user: Rater) -> Kept:
    """Say something of an answer; it is on the disk when this returns."""
    if said.role == ADJUDICATOR and not user.may("admin"):
        raise HttpFailure(403, "only an admin can settle conflicts as adjudicator", code="role")
    if bool(said.answers) == bool(said.question_id):
        raise HttpFailure(400, "give either answers (ids) or question_id with arms", code="invalid")
    actor = Actor("person", user.name, said.role)
    words = Words(said.thumb, said.rating, said.edit, said.prefer, tuple(said.rank), said.flag)
    more = {"rubric": said.rubric, "supersedes": said.supersedes, "event_id": said.id}
    if said.answers:
        event = site.opinions.say(said.answers, words, actor, **more)
    else:
        event = site.opinions.say_of_run(said.question_id, said.arms, words, actor, **more)
    site.audit.note(user.name, "feedback", event=event.id, kind=event.kind)
    return _kept(event)


@router.get("", response_model=Events)
def listed(
    site: SiteHere,
    user: Viewer,
    q: Annotated[str, Query(max_length=200, description="Words of the question.")] = "",
    kind: EventKind | None = None,
    by: Annotated[str, Query(max_length=MAX_NAME)] = "",
    question_id: Annotated[str, Query(max_length=MAX_NAME)] = "",
    counts: bool | None = None,
    offset: Annotated[int, Query(ge=0, le=10**9)] = 0,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> Events:
    """Events, newest first."""
    total, found = site.opinions.find(
        q, kind or "", by, question_id, counts, offset=offset, limit=limit
    )
    return Events(total=total, events=[_event(one) for one in found])


@router.post("/{event_id}/retract", response_model=Kept, status_code=201)
def retract(event_id: str, why: Reason, site: SiteHere, user: Rater) -> Kept:
    """Take an event back: your own, or as an admin anyone's."""
    role = ADJUDICATOR if user.may("admin") else ""
    event = site.opinions.retract(event_id, why.reason, Actor("person", user.name, role))
    site.audit.note(user.name, "retract", event=event.id, of=event_id)
    return _kept(event)


@router.get("/export", response_class=FileResponse)
def export(site: SiteHere, user: Admin) -> FileResponse:
    """The whole log as JSON lines, to be imported elsewhere with `domainlm feedback import`."""
    with EventLog(site.opinions.path) as log, tempfile.NamedTemporaryFile(delete=False) as file:
        export_log(log, Path(file.name))
    site.audit.note(user.name, "export feedback")
    return FileResponse(
        file.name,
        media_type="application/jsonl",
        filename="feedback.jsonl",
        background=BackgroundTask(Path(file.name).unlink, missing_ok=True),
    )


@router.get("/verify", response_model=Chain)
def verify(site: SiteHere, user: Viewer) -> Chain:
    """Whether every event is as it was written."""
    found = site.opinions.log.verify()
    return Chain(events=found.events, head=found.head, broken=found.broken)


def _kept(event: FeedbackEvent) -> Kept:
    return Kept(id=event.id, time=event.time, hash=event.hash)


def _event(one: Listed) -> EventOut:
    event = one.event
    return EventOut(
        id=event.id,
        time=event.time,
        kind=event.kind,
        by=event.actor.name,
        role=event.actor.role,
        question_id=event.question_id,
        question=event.question,
        split=event.split,
        arms=[s.arm for s in event.shown],
        answers=[s.answer_id for s in event.shown],
        value=one.value,
        text=one.text,
        edit=one.edit,
        counts=one.counts,
        supersedes=event.supersedes,
    )
