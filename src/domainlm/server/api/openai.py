"""The protocol of OpenAI's clients: models, chat completions, embeddings."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field, StringConstraints

from domainlm.errors import DomainLMError
from domainlm.models.base import record_calls
from domainlm.server.answers import Given
from domainlm.server.api.forms import Evidence, event_stream, evidence_of
from domainlm.server.catalogue import ModelCard
from domainlm.server.failures import HttpFailure, NotFound, body, documented, status_of
from domainlm.server.gate import SiteHere, Viewer

router = APIRouter(
    prefix="/v1",
    tags=["openai"],
    responses=documented(400, 401, 403, 404, 409, 413, 415, 422, 429, 503),
)
EMBEDDER = "embedder"
_MAX_INPUTS = 512
Text = Annotated[str, StringConstraints(max_length=100_000)]


class Part(BaseModel):
    """A part of a message; only text is read."""

    type: Literal["text"]
    text: Text


class Turn(BaseModel):
    """One message."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[Part] | None = None

    @property
    def text(self) -> str:
        """Its text."""
        if isinstance(self.content, list):
            return "\n".join(part.text for part in self.content)
        return self.content or ""


class StreamOptions(BaseModel):
    """Whether the last piece of a stream tells the usage."""

    include_usage: bool = False


class Completion(BaseModel):
    """What is asked; further fields of the protocol are ignored."""

    model: Annotated[str, StringConstraints(max_length=200)] = ""
    messages: list[Turn] = Field(min_length=1, max_length=200)
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    seed: int | None = Field(None, ge=0, lt=2**63)
    stop: Text | list[Text] | None = None
    n: Literal[1] = 1


class Usage(BaseModel):
    """Tokens read and written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Message(BaseModel):
    """What was answered."""

    role: Literal["assistant"] = "assistant"
    content: str


class Choice(BaseModel):
    """The one answer."""

    index: Literal[0] = 0
    message: Message
    finish_reason: Literal["stop", "length"]


class Completed(BaseModel):
    """An answer; `domainlm` is an extension: what it rests on, and its id for feedback."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    domainlm: Evidence


class Model(BaseModel):
    """A name that can be asked; `domainlm` says what answers under it."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["domainlm"] = "domainlm"


class Models(BaseModel):
    """All names."""

    object: Literal["list"] = "list"
    data: list[Model]


class EmbeddingInput(BaseModel):
    """Texts to embed; `input_type` is an extension."""

    model: Annotated[str, StringConstraints(max_length=200)] = EMBEDDER
    input: Text | list[Text]
    encoding_format: Literal["float", "base64"] = "float"
    input_type: Literal["query", "passage"] = "passage"


class Embedding(BaseModel):
    """One unit vector: numbers, or little-endian float32 in base64."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingUsage(BaseModel):
    """Tokens read."""

    prompt_tokens: int
    total_tokens: int


class Embeddings(BaseModel):
    """One vector for each text, in order."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


@router.get("/models", response_model=Models)
def models(site: SiteHere, user: Viewer) -> Models:
    """Every arm, every registered model (`arm@id`), and the embedder."""
    return Models(data=[*map(_model, site.engine.models()), _EMBEDDER])


@router.get("/models/{name:path}", response_model=Model)
def model(name: str, site: SiteHere, user: Viewer) -> Model:
    """One of them."""
    return _EMBEDDER if name == EMBEDDER else _model(site.engine.card(name))


@router.post(
    "/chat/completions",
    response_model=Completed,
    responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
)
async def complete(asked: Completion, request: Request, site: SiteHere, user: Viewer) -> Any:
    """Answer the last user message with an arm or a registered model.

    Each arm has its own prompt, so other messages are not read. `max_tokens` is capped by
    `serve.max_tokens`.
    """
    text = next((t.text for t in reversed(asked.messages) if t.role == "user"), None)
    if text is None:
        raise HttpFailure(
            400, "no message has the role 'user'; send a question", code="empty", param="messages"
        )
    limit = asked.max_completion_tokens or asked.max_tokens
    given: dict[str, Any] = {"temperature": asked.temperature, "seed": asked.seed}
    given["max_tokens"] = min(limit, site.config.serve.max_tokens) if limit else None
    stop = [asked.stop] if isinstance(asked.stop, str) else asked.stop or []
    if len(stop) > 4:
        raise HttpFailure(400, f"stop names {len(stop)} texts; give up to 4", param="stop")
    given["stop"] = tuple(word for word in stop if word) or None
    sampling = site.engine.sampling(**{k: v for k, v in given.items() if v is not None})
    # While the run is being opened this waits, and others must not wait with it.
    card = await asyncio.to_thread(site.engine.card, asked.model)
    pieces = site.engine.stream(
        text, card.name, by=user.asker, sampling=sampling, gone=request.is_disconnected
    )
    if asked.stream:
        # Its first piece is awaited here: a refusal still has its own status then.
        first = await anext(pieces)
        usage = asked.stream_options is not None and asked.stream_options.include_usage
        return event_stream(_events(first, pieces, card.name, sampling.max_tokens, usage))
    async for piece in pieces:
        if isinstance(piece, Given):
            return _completed(piece, card.name, sampling.max_tokens)
    raise AssertionError("unreachable: a stream ends with its answer or raises")


@router.post("/embeddings", response_model=Embeddings)
def embeddings(asked: EmbeddingInput, site: SiteHere, user: Viewer) -> Embeddings:
    """Unit vectors of texts, by the embedder that the index uses."""
    if asked.model not in (EMBEDDER, site.config.embedder):
        raise NotFound(f"there is no embedder {asked.model!r}; use {EMBEDDER!r}", param="model")
    texts = [asked.input] if isinstance(asked.input, str) else asked.input
    if not 1 <= len(texts) <= _MAX_INPUTS:
        raise HttpFailure(
            400, f"{len(texts)} texts were sent; send 1 to {_MAX_INPUTS}", param="input"
        )
    with record_calls() as calls:
        vectors = site.engine.embed(texts, asked.input_type)
    tokens = sum(c.tokens_in for c in calls)
    plain = asked.encoding_format == "float"
    return Embeddings(
        data=[
            Embedding(
                index=n,
                embedding=v.tolist() if plain else base64.b64encode(v.astype("<f4")).decode(),
            )
            for n, v in enumerate(vectors)
        ],
        model=EMBEDDER,
        usage=EmbeddingUsage(prompt_tokens=tokens, total_tokens=tokens),
    )


_EMBEDDER = Model(id=EMBEDDER, created=0)


def _model(card: ModelCard) -> Model:
    return Model(id=card.name, created=card.created_s)


def _completed(given: Given, name: str, limit: int) -> Completed:
    return Completed(
        id=f"chatcmpl-{given.id}",
        created=int(time.time()),
        model=name,
        choices=[
            Choice(message=Message(content=given.answer.text), finish_reason=_finish(given, limit))
        ],
        usage=_usage(given),
        domainlm=evidence_of(given),
    )


async def _events(
    first: str | Given,
    rest: AsyncIterator[str | Given],
    name: str,
    limit: int,
    include_usage: bool,
) -> AsyncIterator[str]:
    """The server-sent events of an answer."""
    head = {"object": "chat.completion.chunk", "created": int(time.time()), "model": name}
    head["id"] = f"chatcmpl-{time.time_ns():x}"

    def event(delta: dict[str, str], finish: str | None = None, **more: Any) -> str:
        choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
        return _sse({**head, "choices": choices, **more})

    async def pieces() -> AsyncIterator[str | Given]:
        yield first
        async for piece in rest:
            yield piece

    yield event({"role": "assistant", "content": ""})
    try:
        async for piece in pieces():
            if isinstance(piece, str):
                yield event({"content": piece})
                continue
            extension = evidence_of(piece).model_dump(mode="json")
            yield event({}, _finish(piece, limit), domainlm=extension)
            if include_usage:
                yield _sse({**head, "choices": [], "usage": _usage(piece).model_dump()})
    except DomainLMError as error:
        yield _sse(body(status_of(error), str(error)))
        return
    yield "data: [DONE]\n\n"


def _sse(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


def _finish(given: Given, limit: int) -> Literal["stop", "length"]:
    return "length" if given.answer.tokens_out >= limit else "stop"


def _usage(given: Given) -> Usage:
    read, written = given.answer.tokens_in, given.answer.tokens_out
    return Usage(prompt_tokens=read, completion_tokens=written, total_tokens=read + written)
