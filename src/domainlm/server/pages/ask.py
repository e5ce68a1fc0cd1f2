"""Ask: a question, its answer while it is written, the sources, and what the reader says of it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse, StreamingResponse
from pydantic import TypeAdapter, ValidationError

from domainlm import pricing
from domainlm.errors import DomainLMError
from domainlm.evaluation import cost
from domainlm.feedback.asked import Asked
from domainlm.feedback.events import show
from domainlm.schema import Answer
from domainlm.server.answers import Given
from domainlm.server.auth import User
from domainlm.server.catalogue import ModelCard
from domainlm.server.engine import MAX_QUESTION
from domainlm.server.failures import status_of
from domainlm.server.pages.citing import AnswerView, view_of
from domainlm.server.pages.desk import Desk
from domainlm.server.pages.doors import door
from domainlm.server.pages.said import Form as Said
from domainlm.server.pages.said import Saying, judged, saying
from domainlm.server.site import Site

_RECENT = 6
_TAIL = 200_000
_ASKED = TypeAdapter(Asked)
_EXAMPLES = 4


@dataclass(frozen=True, slots=True)
class Turn:
    """A question with its answer, and what this reader has said of it."""

    question: str
    view: AnswerView
    said: Saying


@dataclass(frozen=True, slots=True)
class Choice:
    """A name that can be asked, as a list shows it."""

    id: str
    label: str


def choices(cards: list[ModelCard]) -> list[Choice]:
    """What can be asked: arms, and registered models by their first digits."""
    return [Choice(c.name, c.name if "@" not in c.name else c.name[: len(c.arm) + 9])
            for c in cards]  # fmt: skip


def turn_of(desk: Desk, given: Given, reader: str) -> Turn:
    """A given answer as `reader` sees it."""
    return Turn(
        given.question.text,
        view_of(given.answer, given.id, price(desk.site, given.answer)),
        saying(desk, given.id, reader),
    )


def price(site: Site, answer: Answer) -> float | None:
    """Marginal dollars of an answer under the configured prices; None if they are wrong."""
    config = site.config
    try:
        prices = cost.load_prices(config.cost.prices)
        machine = pricing.machine(config, prices)
        return cost.answer_cost(answer, prices, machine, pricing.model_price(config, prices))
    except DomainLMError:
        return None


def router(desk: Desk) -> APIRouter:
    """The routes of this page."""
    site, renderer = desk.site, desk.renderer
    routes = APIRouter(include_in_schema=False, dependencies=door("viewer"))

    def page(request: Request, **context: Any) -> Response:
        cards = site.engine.models()
        status = context.pop("status", 200)
        default = context.pop("model", "") or (site.engine.card().name if cards else "")
        shown: dict[str, Any] = {
            "question": "",
            "turn": None,
            "trouble": "",
            "models": choices(cards),
            "arms": [c.name for c in cards],
            "indexed": site.engine.ground.index is not None,
            "model": default,
            "longest": MAX_QUESTION,
            "examples": [],
            "recent": [],
        }
        if not context.get("turn"):
            shown |= {"examples": _examples(site), "recent": _recent(site, request.state.user)}
        return renderer.page(request, "ask.html", "ask", status=status, **(shown | context))

    @routes.get("/")
    def root() -> Response:
        return RedirectResponse("/ask", 303)

    @routes.get("/ask")
    def ask(request: Request, question: str = "") -> Response:
        return page(request, question=question[:MAX_QUESTION])

    @routes.get("/ask/{answer_id}")
    def answered(request: Request, answer_id: str) -> Response:
        given = site.answers.find(answer_id)
        reader = request.state.user.name
        return page(request, turn=turn_of(desk, given, reader), model=given.answer.arm)

    @routes.post("/ask")
    async def without_script(
        request: Request, question: Annotated[str, Form()] = "", model: Annotated[str, Form()] = ""
    ) -> Response:
        try:
            given = await site.engine.answer(
                question, model, by=request.state.user.asker, gone=request.is_disconnected
            )
        except DomainLMError as error:
            return await run_in_threadpool(
                page, request, question=question, trouble=str(error), status=status_of(error)
            )
        return RedirectResponse(f"/ask/{given.id}", 303)

    @routes.post("/ask/stream")
    async def stream(
        request: Request, question: Annotated[str, Form()] = "", model: Annotated[str, Form()] = ""
    ) -> Response:
        pieces = site.engine.stream(
            question, model, by=request.state.user.asker, gone=request.is_disconnected
        )
        # What fails at once, fails with its own status.
        first = await anext(pieces)

        def finished(given: Given) -> dict[str, str]:
            turn = turn_of(desk, given, request.state.user.name)
            arms = [c.name for c in site.engine.models()]
            html = renderer.html(request, "turn.html", "ask", turn=turn, arms=arms)
            return {"html": html, "href": f"/ask/{given.id}"}

        async def events() -> AsyncIterator[str]:
            item = first
            try:
                while True:
                    if isinstance(item, Given):
                        yield _event(await run_in_threadpool(finished, item))
                        return
                    yield _event({"text": item})
                    item = await anext(pieces)
            except DomainLMError as error:
                yield _event({"error": str(error)})
            finally:
                await pieces.aclose()  # type: ignore[attr-defined]

        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(events(), media_type="text/event-stream", headers=headers)

    @routes.post("/judge/{answer_id}", dependencies=door("rater"))
    def judge(
        request: Request,
        answer_id: str,
        thumb: Annotated[str, Form()] = "",
        rating: Annotated[int | None, Form()] = None,
        edit: Annotated[str, Form()] = "",
        base: Annotated[str, Form()] = "",
        flag: Annotated[str, Form()] = "",
    ) -> Response:
        given = site.answers.find(answer_id)
        return judged(desk, request, given, Said(thumb, rating, edit, base, flag))

    return routes


def _event(data: dict[str, str]) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"


def _recent(site: Site, user: User) -> list[dict[str, str]]:
    """The last few different questions; read from the end, since the record grows for ever. It does
    not say who asked, so where several sign in only administrators see it.
    """
    path = site.config.asked_log
    if not path.exists() or (user.asker and not user.may("admin")):
        return []
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - _TAIL))
        lines = stream.read().split(b"\n")
    kept: list[Asked] = []
    for line in lines:
        # The first line is cut in two, the last may still be written.
        with contextlib.suppress(ValidationError):
            kept.append(_ASKED.validate_json(line))
    seen: dict[str, dict[str, str]] = {}
    for one in reversed(kept):
        if one.question.text not in seen:
            seen[one.question.text] = {
                "id": show(one.answer)[0].answer_id,
                "text": one.question.text,
                "arm": one.answer.arm,
                "time": one.time,
            }
    return list(seen.values())[:_RECENT]


def _examples(site: Site) -> list[str]:
    """Questions of the training set: asking a held-out one would be a look at it."""
    questions = site.engine.ground.questions.train
    return [q.text for q in questions if len(q.text) < 140][:_EXAMPLES]
