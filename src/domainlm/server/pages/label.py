"""Label queue: the comparisons that tell the most, one after the other, by keyboard."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request, Response

from domainlm.errors import DataError, DomainLMError
from domainlm.feedback.events import text_digest
from domainlm.feedback.queue import Queue
from domainlm.feedback.record import Words
from domainlm.schema import Actor, RunResult
from domainlm.server.pages.blind import LETTERS
from domainlm.server.pages.citing import AnswerView, view_of
from domainlm.server.pages.desk import Desk
from domainlm.server.pages.doors import door
from domainlm.server.pages.labelling import Others, Turn, next_turn, others, turn_of
from domainlm.server.pages.render import is_fragment

_CHOICES = {"A": "a", "B": "b", "tie": "tie", "both_bad": "both_bad"}
_NO_RUN = (
    "The queue is made of a finished run's answers; start one on the page of runs, or with "
    "domainlm run."
)


@dataclass(frozen=True, slots=True)
class Side:
    """One answer; `seal` tells the server which it was and a reader nothing."""

    letter: str
    view: AnswerView
    seal: str
    chosen: bool = False


@dataclass(frozen=True, slots=True)
class Voted:
    """A vote, and what others said."""

    event_id: str
    question: Any
    sides: tuple[Side, ...]
    sentence: str
    people: str
    judges: str
    metric: str
    agreement: str


def router(desk: Desk) -> APIRouter:
    """The routes of this page."""
    routes = APIRouter(include_in_schema=False, dependencies=door("rater"))

    @routes.get("/label")
    def label(request: Request, skip: str = "") -> Response:
        return _page(desk, request, skip)

    @routes.post("/label")
    def act(
        request: Request,
        do: Annotated[str, Form()] = "",
        question: Annotated[str, Form()] = "",
        first: Annotated[str, Form()] = "",
        skip: Annotated[str, Form()] = "",
    ) -> Response:
        user = request.state.user
        actor = Actor("person", user.name, user.role)
        try:
            if do == "skip":
                return _page(desk, request, f"{skip}\n{question}".strip())
            if do.startswith("undo:"):
                desk.site.opinions.retract(do.removeprefix("undo:"), "taken back", actor)
                return _page(desk, request, skip, message="Taken back.", message_kind="good")
            if do == "next":
                return _page(desk, request, skip)
            return _vote(desk, request, do, question, first, skip, actor)
        except DomainLMError as error:
            return _page(desk, request, skip, message=str(error), message_kind="bad", status=422)

    return routes


def _vote(
    desk: Desk, request: Request, do: str, question: str, first: str, skip: str, actor: Actor
) -> Response:
    result = _result(desk)
    if do not in _CHOICES:
        raise DataError(f"choice {do[:40]!r} is unknown; use A, B, tie or both_bad")
    turn = _shown(desk, result, question, first)
    arms = [a.arm for a in turn.answers]
    choice = _CHOICES[do]
    prefer = arms["ab".index(choice)] if choice in ("a", "b") else choice
    kept = desk.site.opinions.say_of_run(question, arms, Words(prefer=prefer), actor)
    desk.site.audit.note(actor.name, "feedback", question=question)
    sides = _sides(turn, choice)
    said = others(result, desk.logbook.read().current, actor.name, turn)
    voted = Voted(kept.id, turn.question, sides, _sentence(turn, choice), *_told(said))
    return _page(desk, request, skip, voted=voted)


def _page(desk: Desk, request: Request, skip: str, status: int = 200, **context: Any) -> Response:
    """The queue as it stands, as a part or as a whole page."""
    skipped = {s for s in skip.split("\n") if s}
    shown: dict[str, Any] = {
        "trouble": "",
        "voted": None,
        "message": "",
        "message_kind": "",
        "skip": skip,
        "turn": None,
        "sides": (),
        "queue": None,
        "minutes": "",
        "finish": "",
    }
    shown |= context
    try:
        queue, turn = next_turn(
            _result(desk), desk.logbook.read().current, request.state.user.name, skipped
        )
        shown |= {
            "queue": queue,
            "minutes": _minutes(queue),
            "turn": turn,
            "sides": _sides(turn) if turn else (),
            "finish": _finish(queue),
        }
    except DataError as error:
        shown["trouble"] = str(error)
    part = is_fragment(request) and not shown["trouble"]
    template = "label_turn.html" if part else "label.html"
    return desk.renderer.page(request, template, "label", status=status, **shown)


def _result(desk: Desk) -> RunResult:
    result = desk.site.engine.result()
    if result is None:
        raise DataError(_NO_RUN)
    return result


def _shown(desk: Desk, result: RunResult, question: str, first: str) -> Turn:
    """The turn that was shown, by the seal of its first answer."""
    queue, _ = next_turn(result, desk.logbook.read().current, "")
    found = [x for x in result.answers if x.question_id == question and x.arm in (queue.a, queue.b)]
    seals = {_seal(x.text): x.arm for x in found}
    if len(found) != 2 or first not in seals:
        raise DataError("the run has changed since this page was opened; nothing was kept, go on")
    other = queue.b if seals[first] == queue.a else queue.a
    return turn_of(result, question, (seals[first], other))


def _sides(turn: Turn, chosen: str = "") -> tuple[Side, ...]:
    return tuple(
        Side(letter, view_of(answer), _seal(answer.text), chosen == letter.lower())
        for letter, answer in zip(LETTERS, turn.answers, strict=False)
    )


def _seal(text: str) -> str:
    return text_digest(text)[:20]


def _sentence(turn: Turn, choice: str) -> str:
    if choice in ("a", "b"):
        arm = turn.answers["ab".index(choice)].arm
        return f"You preferred {choice.upper()}, which is {arm}."
    return "You found both equally good." if choice == "tie" else "You found both bad."


def _told(said: Others) -> tuple[str, str, str, str]:
    """Others' people, judges, the metric, and agreement so far, each as a sentence."""
    names = {"a": "A", "b": "B", "tie": "a tie"}
    people = ", ".join(f"{n} for {names[c]}" for c, n in sorted(said.people.items()))
    judges = ", ".join(f"{name} says {names[c]}" for name, c in said.judges)
    x, y = said.scores
    metric = ""
    if x is not None and y is not None:
        metric = f"The run's metric gave A {x:.2f} and B {y:.2f}."
    seen = f"You and others have compared {said.seen} pairs in common"
    agreement = (
        f"{seen} and see {said.agree} of them alike ({said.agree / said.seen:.0%})."
        if said.seen
        else "Nobody else has compared what you have, so there is no agreement to show yet."
    )
    return (
        f"Others: {people}." if people else "You are the first to compare these.",
        f"Judges: {judges}." if judges else "",
        metric,
        agreement,
    )


def _minutes(queue: Queue) -> str:
    whole = round(queue.minutes)
    return "a minute" if whole <= 1 else f"{whole} minutes"


def _finish(queue: Queue) -> str:
    found = queue.estimate
    if found is None:
        return ""
    mean = found.mean
    said = f"People prefer {queue.a} to {queue.b} by {100 * mean.value:+.0f} points"
    if mean.low is None or mean.high is None:
        return f"{said}."
    return f"{said} ({100 * mean.low:+.0f} to {100 * mean.high:+.0f})."
