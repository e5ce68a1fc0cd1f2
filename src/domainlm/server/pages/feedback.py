"""Feedback: search, retract, export, settle conflicts, and see how far people agree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import RedirectResponse

from domainlm.feedback.events import ADJUDICATOR
from domainlm.feedback.judges import people_agreement, reports_of
from domainlm.feedback.opinions import grades, preferences
from domainlm.report import charts
from domainlm.schema import (
    Actor,
    Edit,
    FeedbackEvent,
    Flag,
    Interval,
    Judgement,
    Pairwise,
    Rank,
    Rating,
    Retract,
    Thumb,
)
from domainlm.server.auth import User
from domainlm.server.failures import HttpFailure, NotFound
from domainlm.server.pages import trends
from domainlm.server.pages.conflicts import Conflict, allowed, conflicts, settled
from domainlm.server.pages.desk import Desk
from domainlm.server.pages.doors import door
from domainlm.server.pages.logbook import Entries
from domainlm.server.pages.render import is_fragment

_A_PAGE = 40
_SEARCHED = 5_000
"""Events whose texts a search reads, newest first."""


@dataclass(frozen=True, slots=True)
class Filters:
    """What to show."""

    q: str = ""
    kind: str = ""
    who: str = ""
    arm: str = ""
    state: str = ""


@dataclass(frozen=True, slots=True)
class ShownAnswer:
    """An answer that an event is about."""

    arm: str
    text: str


@dataclass(frozen=True, slots=True)
class Row:
    """An event as the list shows it; `state` is empty while it counts."""

    id: str
    time: str
    who: str
    role: str
    what: str
    question: str
    answers: tuple[ShownAnswer, ...]
    text: str
    state: str
    held_out: bool
    may_retract: bool


def router(desk: Desk) -> APIRouter:
    """The routes of this page."""
    routes = APIRouter(include_in_schema=False, dependencies=door("viewer"))

    @routes.get("/feedback")
    def feedback(
        request: Request,
        q: str = "",
        kind: str = "",
        who: str = "",
        arm: str = "",
        state: str = "",
        page: int = 1,
    ) -> Response:
        filters = Filters(q.strip()[:200], kind, who, arm, state)
        entries = desk.logbook.read()
        listed = _listed(desk, entries, filters, max(1, page), request.state.user)
        if is_fragment(request):
            return desk.renderer.page(request, "events.html", "feedback", **listed)
        return desk.renderer.page(
            request, "feedback.html", "feedback", filters=asdict(filters), **listed,
            **_overview(desk, entries),
        )  # fmt: skip

    @routes.post("/feedback/{event_id}/retract", dependencies=door("rater"))
    def retract(request: Request, event_id: str) -> Response:
        user: User = request.state.user
        role = ADJUDICATOR if user.may("admin") else user.role
        actor = Actor("person", user.name, role)
        desk.site.opinions.retract(event_id, "retracted on the feedback page", actor)
        desk.site.audit.note(user.name, "retract", event=event_id)
        return RedirectResponse("/feedback", 303)

    @routes.post("/feedback/settle", dependencies=door("admin"))
    def settle(
        request: Request,
        conflict: Annotated[str, Form()] = "",
        choice: Annotated[str, Form()] = "",
    ) -> Response:
        user: User = request.state.user
        _settle(desk, conflict, choice, user)
        desk.site.audit.note(user.name, "settle", conflict=conflict)
        return RedirectResponse("/feedback#conflicts-h", 303)

    return routes


def _listed(
    desk: Desk, entries: Entries, filters: Filters, page: int, user: User
) -> dict[str, Any]:
    """One page of the events that pass the filters, newest first."""
    taken = _taken_back(entries)
    plain = [
        e
        for e in reversed(entries.every)
        if (not filters.kind or e.kind == filters.kind)
        and (not filters.who or e.actor.name == filters.who)
        and (not filters.arm or any(s.arm == filters.arm for s in e.shown))
        and (not filters.state or (filters.state == "counts") == (e.id in entries.counting))
    ]
    if filters.q:
        wanted = filters.q.casefold()
        plain = [e for e in plain[:_SEARCHED] if wanted in _haystack(desk, e)]
    pages = max(1, -(-len(plain) // _A_PAGE))
    page = min(page, pages)
    part = plain[(page - 1) * _A_PAGE : page * _A_PAGE]

    def link(n: int) -> str:
        return "/feedback?" + urlencode(
            {k: v for k, v in asdict(filters).items() if v} | {"page": n}
        )

    rows = [_row(desk, e, entries, taken, user) for e in part]
    return {"rows": rows, "matching": len(plain), "page": page, "pages": pages, "page_link": link}


def _row(
    desk: Desk, event: FeedbackEvent, entries: Entries, taken: dict[str, str], user: User
) -> Row:
    counts = event.id in entries.counting
    mine = event.actor.name == user.name and event.actor.kind == "person"
    answers = tuple(
        ShownAnswer(s.arm, desk.logbook.text(s.text_sha256)[:400]) for s in event.shown[:4]
    )
    return Row(
        event.id,
        event.time,
        event.actor.name,
        "judge" if event.actor.kind == "judge" else event.actor.role,
        what(event),
        event.question,
        answers,
        _own_text(desk, event),
        "" if counts or event.kind == "retract" else taken.get(event.id, "taken back"),
        event.split != "train" and event.kind != "retract",
        counts and (mine or user.may("admin")) and user.may("rater"),
    )


def what(event: FeedbackEvent) -> str:
    """What an event says, in words."""
    p, arms = event.payload, [s.arm for s in event.shown]
    if isinstance(p, Thumb):
        return "good" if p.up else "not good"
    if isinstance(p, Rating):
        return f"{p.score} of 5"
    if isinstance(p, Edit):
        return "corrected"
    if isinstance(p, Flag):
        return "flagged"
    if isinstance(p, Retract):
        return "took something back"
    if isinstance(p, Rank):
        by_id = {s.answer_id: s.arm for s in event.shown}
        return " > ".join(by_id.get(i, "?") for i in p.order)
    if isinstance(p, Judgement) and p.score is not None:
        return f"score {p.score:.2f}"
    preferred = p.preferred if isinstance(p, Pairwise | Judgement) else None
    if preferred in ("a", "b") and len(arms) == 2:
        return f"prefers {arms['ab'.index(preferred)]} to {arms['ba'.index(preferred)]}"
    return "equally good" if preferred == "tie" else "both bad"


def _own_text(desk: Desk, event: FeedbackEvent) -> str:
    p = event.payload
    if isinstance(p, Edit):
        return desk.logbook.text(p.text_sha256)
    return p.reason if isinstance(p, Flag | Retract) else ""


def _haystack(desk: Desk, event: FeedbackEvent) -> str:
    texts = (desk.logbook.text(s.text_sha256) for s in event.shown)
    parts = (event.question, event.actor.name, what(event), _own_text(desk, event), *texts)
    return "\n".join(parts).casefold()


def _taken_back(entries: Entries) -> dict[str, str]:
    """Why an event no longer counts."""
    why: dict[str, str] = {}
    for event in entries.every:
        if event.supersedes:
            why[event.supersedes] = "replaced by a later word"
        if isinstance(event.payload, Retract):
            why[event.payload.event_id] = f"retracted by {event.actor.name}"
    return why


def _overview(desk: Desk, entries: Entries) -> dict[str, Any]:
    current = list(entries.current)
    graded = grades(current)
    agreement = people_agreement(graded, preferences(current)) if current else {}
    found = trends.weeks(current, graded)
    people = {e.actor.name for e in entries.every if e.actor.kind == "person"}
    judges = {e.actor.name for e in entries.every if e.actor.kind == "judge"}
    kinds = sorted({e.kind for e in entries.every})
    arms = sorted({s.arm for e in entries.every for s in e.shown})
    return {
        "total": len(entries.every),
        "current": len(current),
        "people": len(people),
        "judges": len(judges),
        "agreement": [(name, i, _bar(i)) for name, i in agreement.items() if i],
        "reports": reports_of(current) if judges else [],
        "weeks": found,
        "trend": trends.ratings(found),
        "conflicts": _conflicts(desk, entries),
        "choices": (
            ("kind", "What", kinds),
            ("who", "Who", sorted(people | judges)),
            ("arm", "Arm", arms),
            ("state", "State", ("counts", "taken back")),
        ),
    }


def _bar(interval: Interval) -> Any:
    return charts.interval_bar(interval, 1)


def _conflicts(desk: Desk, entries: Entries) -> list[Conflict]:
    return conflicts(entries.current, _Texts(desk.logbook.text))


class _Texts(dict[str, str]):
    """Texts by SHA-256, looked up when they are needed."""

    def __init__(self, find: Callable[[str], str]) -> None:
        super().__init__()
        self._find = find

    def get(self, key: str, default: Any = "") -> Any:
        """The text, or the default."""
        return self._find(key) or default


def _settle(desk: Desk, key: str, choice: str, user: User) -> None:
    entries = desk.logbook.read()
    conflict = next((c for c in _conflicts(desk, entries) if c.key == key), None)
    if conflict is None:
        raise NotFound("this conflict is settled already; reload the page")
    if choice not in allowed(conflict):
        raise HttpFailure(422, f"choice {choice[:40]!r} is none of the conflict's; reload the page")
    by_id = {e.id: e for e in entries.current}
    origin = by_id[conflict.voices[0].event_id]
    actor = Actor("person", user.name, ADJUDICATOR)
    desk.site.opinions.log.append([settled(conflict, choice, actor, origin)])
