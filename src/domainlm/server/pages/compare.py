"""Compare: one question to several arms, blind and in random order, then a vote."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse

from domainlm.errors import DataError, DomainLMError
from domainlm.feedback.record import Words
from domainlm.schema import Actor, FeedbackEvent, Pairwise, Rank
from domainlm.server.answers import Given
from domainlm.server.engine import MAX_QUESTION
from domainlm.server.failures import HttpFailure, status_of
from domainlm.server.pages.ask import choices, price
from domainlm.server.pages.blind import LETTERS, Blind
from domainlm.server.pages.citing import AnswerView, view_of
from domainlm.server.pages.desk import Desk
from domainlm.server.pages.doors import door
from domainlm.server.pages.render import is_fragment
from domainlm.server.pages.said import Saying, saying


@dataclass(frozen=True, slots=True)
class Side:
    """One answer of a comparison."""

    letter: str
    number: int
    view: AnswerView
    said: Saying
    chosen: bool


@dataclass(frozen=True, slots=True)
class Shown:
    """A comparison as its page shows it; `vote` is empty until one was given."""

    id: str
    question: str
    sides: tuple[Side, ...]
    vote: str


def router(desk: Desk) -> APIRouter:
    """The routes of this page."""
    site = desk.site
    routes = APIRouter(include_in_schema=False, dependencies=door("rater"))

    def page(request: Request, status: int = 200, **context: Any) -> Response:
        cards = site.engine.models()
        shown: dict[str, Any] = {
            "models": choices(cards),
            "chosen": _usual([c.name for c in cards], desk),
            "question": "",
            "trouble": "",
            "blind": None,
            "message": "",
            "message_kind": "",
            "longest": MAX_QUESTION,
        }
        return desk.renderer.page(
            request, "compare.html", "compare", status=status, **(shown | context)
        )

    @routes.get("/compare")
    def compare(request: Request, question: str = "") -> Response:
        return page(request, question=question[:MAX_QUESTION])

    @routes.post("/compare")
    async def begin(
        request: Request,
        question: Annotated[str, Form()] = "",
        model: Annotated[list[str] | None, Form()] = None,
    ) -> Response:
        names = list(dict.fromkeys(model or []))
        try:
            if not 2 <= len(names) <= len(LETTERS):
                raise HttpFailure(422, f"{len(names)} arms were chosen; choose 2 to {len(LETTERS)}")
            # No one's share of the queue: with a small one arms could never be compared.
            given = await _all(
                [site.engine.answer(question, n, gone=request.is_disconnected) for n in names]
            )
            made = await run_in_threadpool(
                desk.comparisons.begin, request.state.user.name, list(given)
            )
        except DomainLMError as error:
            return await run_in_threadpool(
                page, request, status_of(error), question=question, chosen=names, trouble=str(error)
            )
        return RedirectResponse(f"/compare/{made.id}", 303)

    @routes.get("/compare/{blind_id}")
    def show(request: Request, blind_id: str) -> Response:
        blind = desk.comparisons.find(blind_id)
        return page(request, blind=shown_to(desk, blind, request.state.user.name))

    @routes.post("/compare/{blind_id}")
    async def vote(request: Request, blind_id: str) -> Response:
        form = {k: str(v) for k, v in (await request.form()).items()}
        return await run_in_threadpool(_vote, desk, request, blind_id, form, page)

    return routes


async def _all(answers: Sequence[Coroutine[Any, Any, Given]]) -> list[Given]:
    """All answers; where one fails, nobody waits for the others any more."""
    tasks = [asyncio.ensure_future(a) for a in answers]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


def _vote(desk: Desk, request: Request, blind_id: str, form: dict[str, str], page: Any) -> Response:
    blind, user = desk.comparisons.find(blind_id), request.state.user
    message, kind, status = "", "", 200
    try:
        before = _voted(desk, blind, user.name)
        actor = Actor("person", user.name, user.role)
        replaced = before.id if before and before.actor == actor else ""
        desk.site.opinions.say(blind.answer_ids, _words(blind, form), actor, supersedes=replaced)
        desk.site.audit.note(user.name, "feedback", comparison=blind.id)
    except DomainLMError as error:
        message, kind, status = str(error), "bad", 422
    if not is_fragment(request) and status == 200:
        return RedirectResponse(f"/compare/{blind.id}", 303)
    shown = shown_to(desk, blind, user.name)
    if not is_fragment(request):
        failed: Response = page(request, status, blind=shown, message=message, message_kind=kind)
        return failed
    return desk.renderer.page(
        request, "blind.html", status=status, blind=shown, message=message, message_kind=kind
    )


def _words(blind: Blind, form: dict[str, str]) -> Words:
    """The vote of a form, which knows the answers by letter alone."""
    ids = dict(zip(LETTERS, blind.answer_ids, strict=False))
    if len(ids) == 2:
        choice = form.get("prefer", "")
        return Words(prefer=ids.get(choice, choice))
    ranks = {letter: form.get(f"rank-{letter}", "") for letter in ids}
    if sorted(ranks.values()) != [str(n) for n in range(1, len(ids) + 1)]:
        raise DataError("two answers have the same rank; give each its own, 1 is the best")
    return Words(rank=tuple(ids[letter] for letter in sorted(ids, key=lambda x: int(ranks[x]))))


def shown_to(desk: Desk, blind: Blind, reader: str) -> Shown:
    """A comparison with the arms' names only for one who has voted."""
    given = [desk.site.answers.find(i) for i in blind.answer_ids]
    event = _voted(desk, blind, reader)
    best: tuple[str, ...] = ()
    vote = ""
    if event is not None:
        best, vote = _told(blind, event)
    sides = tuple(
        Side(
            letter,
            n,
            view_of(g.answer, g.id, price(desk.site, g.answer)),
            saying(desk, g.id, reader),
            g.id in best,
        )
        for n, (letter, g) in enumerate(zip(LETTERS, given, strict=False), 1)
    )
    return Shown(blind.id, blind.question, sides, vote)


def _told(blind: Blind, event: FeedbackEvent) -> tuple[tuple[str, ...], str]:
    """Ids of what was found best, and the vote as a sentence."""
    letters = dict(zip(blind.answer_ids, LETTERS, strict=False))
    arms = {s.answer_id: s.arm for s in event.shown}
    payload = event.payload
    if isinstance(payload, Rank):
        order = ", then ".join(f"{letters[i]} ({arms[i]})" for i in payload.order)
        return payload.order[:1], f"Kept: {order}."
    assert isinstance(payload, Pairwise)
    if payload.preferred in ("a", "b"):
        best = event.shown["ab".index(payload.preferred)].answer_id
        return (best,), f"Kept: you prefer {letters[best]}, which is {arms[best]}."
    what = "equally good" if payload.preferred == "tie" else "both bad"
    return (), f"Kept: {what}."


def _voted(desk: Desk, blind: Blind, reader: str) -> FeedbackEvent | None:
    """The reader's standing vote on exactly these answers."""
    events = desk.logbook.read().by_answer.get(blind.answer_ids[0], ())
    shown = set(blind.answer_ids)
    return next(
        (
            e
            for e in reversed(events)
            if e.actor.name == reader
            and e.kind in ("pairwise", "rank")
            and {s.answer_id for s in e.shown} == shown
        ),
        None,
    )


def _usual(names: list[str], desk: Desk) -> list[str]:
    """What is ticked at first: the shipped arm and the one that is hardest to tell from it."""
    from domainlm.feedback.queue import build_queue

    result = desk.site.engine.result()
    if result is not None:
        try:
            queue = build_queue(result, (), limit=1)
        except DataError:
            return names[:2]
        if {queue.a, queue.b} <= set(names):
            return [queue.a, queue.b]
    return names[:2]
