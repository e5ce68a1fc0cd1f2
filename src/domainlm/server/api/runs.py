"""Finished runs: what they found, two compared, one priced anew."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field

from domainlm.artifacts import dump_json
from domainlm.paired import Comparison
from domainlm.schema import (
    Answer,
    ArmSummary,
    BreakEven,
    Contrast,
    DataCard,
    Money,
    Question,
    RagSpec,
    RoiCase,
    Score,
    Trial,
    Verdict,
    Waterfall,
)
from domainlm.server.api.forms import Form
from domainlm.server.failures import NotFound, documented
from domainlm.server.gate import SiteHere, Viewer
from domainlm.server.runs import RunCard

router = APIRouter(
    prefix="/api",
    tags=["runs"],
    responses=documented(400, 401, 403, 404, 409, 413, 415, 422, 429),
)
RunName = Annotated[str, Query(max_length=300)]


class RunList(BaseModel):
    """Runs, newest first."""

    runs: list[RunCard]


class RunOut(BaseModel):
    """What a run found, without its single answers."""

    name: str
    created_at: str
    provenance: dict[str, str]
    data: DataCard
    rag: RagSpec
    trials: tuple[Trial, ...]
    summaries: tuple[ArmSummary, ...]
    contrasts: tuple[Contrast, ...]
    verdict: Verdict
    roi: tuple[RoiCase, ...]
    break_evens: tuple[BreakEven, ...]
    money: Money | None
    waterfalls: tuple[Waterfall, ...]
    test_touches: int


class QuestionOut(BaseModel):
    """One question of a run with every arm's answer and score."""

    question: Question
    answers: list[Answer]
    scores: list[Score]


class Reprice(Form):
    """Settings of `cost` (see docs/settings.md), such as `{"volume": 50000}`."""

    run: str = Field("", max_length=300)
    settings: dict[str, Any] = Field(default={}, max_length=40)


class Repriced(BaseModel):
    """The verdict and the money under these settings."""

    verdict: Verdict
    money: Money | None
    break_evens: tuple[BreakEven, ...]
    roi: tuple[RoiCase, ...]


@router.get("/runs", response_model=RunList)
def runs(site: SiteHere, user: Viewer) -> RunList:
    """The finished runs of this folder."""
    return RunList(runs=site.runs.cards())


@router.get("/runs/{name}", response_model=RunOut)
def run(name: str, site: SiteHere, user: Viewer) -> Response:
    """What a run found."""
    result = site.runs.result(name)
    return _json(RunOut, RunOut(**{f: getattr(result, f) for f in RunOut.model_fields}))


@router.get("/runs/{name}/questions/{question_id}", response_model=QuestionOut)
def question(name: str, question_id: str, site: SiteHere, user: Viewer) -> Response:
    """Every arm's answer to one question."""
    result = site.runs.result(name)
    asked = next((q for q in result.questions if q.id == question_id), None)
    if asked is None:
        raise NotFound(f"run {name!r} has no question {question_id[:80]!r}")
    return _json(
        QuestionOut,
        QuestionOut(
            question=asked,
            answers=[a for a in result.answers if a.question_id == question_id],
            scores=[s for s in result.scores if s.question_id == question_id],
        ),
    )


@router.get("/compare", response_model=Comparison)
def compare(site: SiteHere, user: Viewer, before: RunName, after: RunName) -> Response:
    """Two runs, arm by arm: `a` is the later one, differences read later minus earlier."""
    return _json(Comparison, site.runs.compare(before, after))


@router.post("/roi", response_model=Repriced)
def roi(asked: Reprice, site: SiteHere, user: Viewer) -> Response:
    """A finished run under other prices and assumptions; nothing is answered or written."""
    result = site.runs.reprice(asked.run, asked.settings)
    return _json(Repriced, Repriced(**{f: getattr(result, f) for f in Repriced.model_fields}))


def _json(kind: type, value: object) -> Response:
    # Pydantic writes a number that is none as null, where the usual response would fail.
    return Response(dump_json(kind, value), media_type="application/json")
