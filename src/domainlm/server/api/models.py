"""Trained models: listed, explained, promoted, rolled back."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Response
from pydantic import BaseModel, StringConstraints

from domainlm.artifacts import dump_json
from domainlm.errors import DataError
from domainlm.registry import Origin
from domainlm.schema import Champion, ModelRecord, Status
from domainlm.server.api.forms import Form
from domainlm.server.failures import NotFound, documented
from domainlm.server.gate import Admin, SiteHere, Viewer
from domainlm.server.site import Site

router = APIRouter(
    prefix="/api/models",
    tags=["models"],
    responses=documented(400, 401, 403, 404, 409, 413, 415, 422, 429),
)
Reason = Annotated[str, StringConstraints(max_length=500)]
Id = Annotated[str, StringConstraints(max_length=100)]


class ModelLine(BaseModel):
    """A registered model in a list."""

    id: str
    arm: str
    status: Status
    created_at: str
    rows: dict[str, int]
    decision: str | None
    tainted_by: list[str]
    parent: str


class ModelList(BaseModel):
    """Registered models, oldest first, and the champion's id."""

    champion: str
    models: list[ModelLine]


class Promote(Form):
    """`over` is the champion that you saw, so that nobody's choice is overwritten unseen."""

    over: Id | None = None
    reason: Reason = "by hand"
    force: bool = False


class Rollback(Form):
    """`to` is an earlier champion; empty for the one before."""

    to: Id = ""
    reason: Reason = "by hand"


@router.get("", response_model=ModelList)
def models(site: SiteHere, user: Viewer) -> ModelList:
    """Every model that was ever added."""
    registry = site.registry
    champion = registry.champion()
    lines = []
    for record in registry.models():
        gates = registry.gates(record.id)
        lines.append(
            ModelLine(
                id=record.id,
                arm=record.arm,
                status=registry.status(record.id),
                created_at=record.created_at,
                rows=record.rows,
                decision=gates[-1].result.decision if gates else None,
                tainted_by=list(registry.taint(record)),
                parent=record.parent,
            )
        )
    return ModelList(champion=champion.model if champion else "", models=lines)


@router.post("/rollback", response_model=Champion)
def rollback(wanted: Rollback, site: SiteHere, user: Admin) -> Champion:
    """Go back to an earlier champion, bit for bit."""
    made = site.registry.rollback(wanted.to, wanted.reason)
    site.audit.note(user.name, "rollback", champion=made.model, reason=wanted.reason)
    return made


@router.get("/{model_id}", response_model=Origin)
def why(model_id: str, site: SiteHere, user: Viewer) -> Response:
    """What a model was made of, how the gate judged it, and the same of those before it."""
    origin = site.registry.origin(_record(site, model_id).id)
    return Response(dump_json(Origin, origin), media_type="application/json")


@router.post("/{model_id}/promote", response_model=Champion)
def promote(model_id: str, wanted: Promote, site: SiteHere, user: Admin) -> Champion:
    """Make a model the champion; without `force` only if the gate said so."""
    record, now = _record(site, model_id), site.registry.champion()
    over = wanted.over if wanted.over is not None else now.model if now else ""
    made = site.registry.promote(
        record.id,
        over=over,
        reason=wanted.reason,
        action="force" if wanted.force else "promote",
    )
    site.audit.note(
        user.name,
        "promote",
        champion=made.model,
        over=over,
        forced=str(wanted.force),
        reason=wanted.reason,
    )
    return made


def _record(site: Site, model_id: str) -> ModelRecord:
    try:
        return site.registry.model(model_id)
    except DataError as error:
        raise NotFound(str(error)) from None
