"""The bodies of domainlm's own endpoints that others share: passages, citations, answers."""

from __future__ import annotations

from collections.abc import AsyncIterator

from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict

from domainlm.schema import Passage
from domainlm.server.answers import Given


class Form(BaseModel):
    """A body that is sent to us: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")


class PassageOut(BaseModel):
    """A passage that the model was shown: `text` is `document[start:end]` unless compressed."""

    chunk_id: str
    doc_id: str
    title: str
    anchor: str
    start: int
    end: int
    score: float
    text: str


class CitationOut(BaseModel):
    """A sentence of the answer, `answer[start:end]`, and the span of the document that supports
    it; `doc_id` is null where nothing does. `support` is the share of its words found there.
    """

    start: int
    end: int
    doc_id: str | None
    source_start: int
    source_end: int
    support: float


class Evidence(BaseModel):
    """What an answer rests on. `answer_id` is what feedback names."""

    answer_id: str
    question_id: str
    arm: str
    passages: list[PassageOut]
    citations: list[CitationOut]
    latency_s: float


def event_stream(events: AsyncIterator[str]) -> StreamingResponse:
    """Server-sent events that no proxy shall hold back."""
    headers = {"X-Accel-Buffering": "no"}
    return StreamingResponse(events, media_type="text/event-stream", headers=headers)


def passage_out(passage: Passage) -> PassageOut:
    """A passage as it is sent."""
    return PassageOut(
        chunk_id=passage.chunk_id,
        doc_id=passage.doc_id,
        title=passage.title,
        anchor=passage.anchor,
        start=passage.start,
        end=passage.end,
        score=passage.score,
        text=passage.text,
    )


def evidence_of(given: Given) -> Evidence:
    """What an answer rests on."""
    answer = given.answer
    return Evidence(
        answer_id=given.id,
        question_id=given.question.id,
        arm=answer.arm,
        passages=[passage_out(p) for p in answer.passages],
        citations=[
            CitationOut(
                start=c.start,
                end=c.end,
                doc_id=c.doc_id or None,
                source_start=c.source_start,
                source_end=c.source_end,
                support=c.support,
            )
            for c in answer.citations
        ],
        latency_s=round(answer.latency_s, 4),
    )
