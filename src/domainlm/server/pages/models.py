"""Models: the registry, why a model is as it is, improve rounds, promotion and the way back."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import RedirectResponse

from domainlm.config import ARMS
from domainlm.registry import Origin, Registry
from domainlm.report import charts
from domainlm.report import format as fmt
from domainlm.schema import ModelRecord
from domainlm.server.pages.desk import Desk
from domainlm.server.pages.doors import door
from domainlm.server.pages.feedback import what
from domainlm.server.pages.runs import jobs_for

_EVENTS = 200


@dataclasses.dataclass(frozen=True, slots=True)
class Line:
    """One model of the list."""

    id: str
    status: str
    arm: str
    created_at: str
    rows: int
    events: int
    gate: str
    taint: bool


def router(desk: Desk) -> APIRouter:
    """The routes of this page."""
    site, registry = desk.site, desk.site.registry
    routes = APIRouter(include_in_schema=False, dependencies=door("viewer"))

    @routes.get("/models")
    def models(request: Request) -> Response:
        champion = registry.champion()
        why_not = _why_not(desk)
        return desk.renderer.page(
            request,
            "models.html",
            "models",
            models=[_line(registry, r) for r in reversed(registry.models())],
            moves=champion.moves[::-1] if champion else (),
            back=champion.line[-2] if champion and len(champion.line) > 1 else "",
            can_improve=not why_not,
            why_not=why_not,
            **jobs_for(desk, "improve"),
        )

    @routes.get("/models/{name}")
    def model(request: Request, name: str) -> Response:
        origin = registry.origin(name)
        champion = registry.champion()
        record, now = origin.record, champion.model if champion else ""
        gates = [g for g in origin.gates if g.champion == now]
        adapter = record.adapter
        return desk.renderer.page(
            request,
            "model.html",
            "models",
            title=record.id[:12],
            origin=origin,
            line=list(_line_of_descent(origin)),
            champion=now,
            passed=bool(gates) and gates[-1].result.decision == "PROMOTE",
            curve=charts.curve(adapter, fmt.arm_slots(ARMS).get(record.arm, 0)),
            events=_events(desk, record),
            settings=json.dumps(
                {"settings": record.settings, "seed": record.seed, "versions": record.versions},
                indent=1,
                ensure_ascii=False,
            ),
        )

    @routes.post("/models/rollback", dependencies=door("admin"))
    def rollback(request: Request) -> Response:
        user = request.state.user.name
        made = registry.rollback(reason=f"rolled back by {user}")
        site.audit.note(user, "rollback", model=made.model)
        return RedirectResponse("/models", 303)

    @routes.post("/models/{name}/promote", dependencies=door("admin"))
    def promote(
        request: Request,
        name: str,
        over: Annotated[str, Form()] = "",
        force: Annotated[str, Form()] = "",
    ) -> Response:
        user, record = request.state.user.name, registry.model(name)
        action: Any = "force" if force else "promote"
        registry.promote(record.id, over=over, reason=f"promoted by {user}", action=action)
        site.audit.note(user, action, model=record.id, over=over)
        return RedirectResponse("/models", 303)

    return routes


def _line(registry: Registry, record: ModelRecord) -> Line:
    gates = registry.gates(record.id)
    return Line(
        record.id,
        registry.status(record.id),
        record.arm,
        record.created_at,
        sum(record.rows.values()),
        len(record.events),
        gates[-1].result.decision if gates else "",
        bool(registry.taint(record)),
    )


def _line_of_descent(origin: Origin | None) -> Iterator[Origin]:
    while origin is not None:
        yield origin
        origin = origin.parent


def _events(desk: Desk, record: ModelRecord) -> list[dict[str, str]]:
    """The feedback behind a model, as sentences with a link to the list of events."""
    if not record.events:
        return []
    known = {e.id: e for e in desk.logbook.read().every}
    shown = []
    for event_id in record.events[:_EVENTS]:
        event = known.get(event_id)
        if event is None:
            shown.append({"href": "", "text": event_id})
            continue
        href = "/feedback?" + urlencode({"q": event.question[:100]})
        said = f"{event.actor.name}: {what(event)}. {event.question[:160]}"
        shown.append({"href": href, "text": said})
    return shown


def _why_not(desk: Desk) -> str:
    """Why no improve round can be started; empty if one can."""
    config = desk.site.config
    if not set(config.arms) - {"base", "rag"}:
        return (
            f"The arms are {', '.join(config.arms)}, none of which is fine-tuned. Add raft, "
            "tuned+rag or tuned, and a local model, to the configuration."
        )
    corrections = config.questions.parent / "corrections.jsonl"
    if not config.feedback_log.exists() and not corrections.exists():
        return "There is no feedback to learn from yet. Ask, label or correct something first."
    return ""
