"""Asking and retrieving, with everything that led to an answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field, StringConstraints

from domainlm.errors import DomainLMError
from domainlm.pricing import answer_costs, check
from domainlm.schema import Sampling
from domainlm.server.answers import Given
from domainlm.server.api.forms import (
    Evidence,
    Form,
    PassageOut,
    event_stream,
    evidence_of,
    passage_out,
)
from domainlm.server.engine import MAX_QUESTION
from domainlm.server.failures import NotFound, body, documented, status_of
from domainlm.server.gate import SiteHere, Viewer
from domainlm.server.site import Site

router = APIRouter(
    prefix="/api",
    tags=["ask"],
    responses=documented(400, 401, 403, 404, 409, 413, 415, 422, 429, 503),
)
Question = Annotated[str, StringConstraints(min_length=1, max_length=MAX_QUESTION)]


class Ask(Form):
    """A question; `model` is a name of `/v1/models`, empty for the best there is."""

    question: Question
    model: Annotated[str, StringConstraints(max_length=200)] = ""
    stream: bool = False
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)


class Step(BaseModel):
    """What one stage did: queries or ranked chunks that left it, and why it fell back, if so."""

    phase: str
    stage: str
    seconds: float
    queries: list[str]
    chunks: list[str]
    fallback: str
    tokens_in: int
    tokens_out: int


class Turn(BaseModel):
    """One message of the prompt."""

    role: str
    content: str


class AnswerOut(Evidence):
    """An answer with its evidence, its trace, the exact prompt and what it took."""

    question: str
    text: str
    time: str
    tokens_in: int
    tokens_out: int
    cost_usd: float
    trace: list[Step]
    prompt: list[Turn]


class Find(Form):
    """What to look for, and how many passages."""

    question: Question
    k: int = Field(5, ge=1, le=50)


class Found(BaseModel):
    """Passages, best first."""

    passages: list[PassageOut]


@router.post(
    "/ask",
    response_model=AnswerOut,
    responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
)
async def ask(asked: Ask, request: Request, site: SiteHere, user: Viewer) -> Any:
    """Answer a question.

    With `stream`, server-sent events: `piece` with text (JSON strings), then `answer` with the
    body as it is without `stream`, or `error` with the error object.
    """
    sampling = _sampling(site, asked)
    gone = request.is_disconnected
    if not asked.stream:
        given = await site.engine.answer(
            asked.question, asked.model, by=user.asker, sampling=sampling, gone=gone
        )
        return await asyncio.to_thread(answer_out, site, given)
    pieces = site.engine.stream(
        asked.question, asked.model, by=user.asker, sampling=sampling, gone=gone
    )
    # Awaited here, so that a refusal still has its own status.
    first = await anext(pieces)
    return event_stream(_events(site, first, pieces))


@router.get("/answers/{answer_id}", response_model=AnswerOut)
def answer(answer_id: str, site: SiteHere, user: Viewer) -> AnswerOut:
    """An answer that was given earlier, by this server or by `domainlm ask`."""
    given = site.answers.get(answer_id)
    if given is None:
        raise NotFound(f"there is no answer {answer_id[:80]!r}; ids come with answers")
    return answer_out(site, given)


@router.post("/retrieve", response_model=Found)
def retrieve(asked: Find, site: SiteHere, user: Viewer) -> Found:
    """The passages that a question would be answered from."""
    return Found(passages=[passage_out(p) for p in site.engine.retrieve(asked.question, asked.k)])


def answer_out(site: Site, given: Given) -> AnswerOut:
    """An answer as it is sent."""
    made = given.answer
    config = site.config
    return AnswerOut(
        **evidence_of(given).model_dump(),
        question=given.question.text,
        text=made.text,
        time=given.time,
        tokens_in=made.tokens_in,
        tokens_out=made.tokens_out,
        cost_usd=answer_costs(config, check(config), [made])[0],
        trace=[
            Step(
                phase=s.phase,
                stage=s.stage,
                seconds=s.seconds,
                queries=list(s.queries),
                chunks=list(s.chunks),
                fallback=s.fallback,
                tokens_in=s.tokens_in,
                tokens_out=s.tokens_out,
            )
            for s in made.trace
        ],
        prompt=[Turn(role=m.role, content=m.content) for m in made.prompt],
    )


def _sampling(site: Site, asked: Ask) -> Sampling:
    given: dict[str, Any] = {}
    if asked.max_tokens is not None:
        given["max_tokens"] = min(asked.max_tokens, site.config.serve.max_tokens)
    if asked.temperature is not None:
        given["temperature"] = asked.temperature
    return site.engine.sampling(**given)


async def _events(
    site: Site, first: str | Given, rest: AsyncIterator[str | Given]
) -> AsyncIterator[str]:
    async def pieces() -> AsyncIterator[str | Given]:
        yield first
        async for piece in rest:
            yield piece

    try:
        async for piece in pieces():
            if isinstance(piece, str):
                yield f"event: piece\ndata: {json.dumps(piece)}\n\n"
            else:
                whole = await asyncio.to_thread(answer_out, site, piece)
                yield f"event: answer\ndata: {whole.model_dump_json()}\n\n"
    except DomainLMError as error:
        yield f"event: error\ndata: {json.dumps(body(status_of(error), str(error)))}\n\n"
