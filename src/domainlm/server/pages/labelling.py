"""The label queue for one rater: what comes next, and what others said, once one has voted.

The queue asks for what nobody has compared. Agreement needs questions that two have seen, so one
turn in five is a second opinion on what another rater has already compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from domainlm.feedback.events import text_digest
from domainlm.feedback.opinions import Preference, grades, preferences
from domainlm.feedback.queue import Queue, build_queue
from domainlm.schema import Answer, FeedbackEvent, Question, RunResult

SECOND_EVERY = 5
NEXT = 20
"""Questions whose time and gain are told ahead."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A question with two answers in the order to show them."""

    question: Question
    answers: tuple[Answer, Answer]
    second: bool
    """Another rater has compared them already."""


@dataclass(frozen=True, slots=True)
class Others:
    """What others said of the same two answers, in the order they were shown.

    `people` and `judges` map "a", "b" and "tie" to counts; `scores` are what the run's metric gave.
    """

    people: dict[str, int]
    judges: tuple[tuple[str, str], ...]
    scores: tuple[float | None, float | None]
    agree: int
    seen: int
    """Of the pairs that this rater and others both compared, how many both see alike."""


def next_turn(
    result: RunResult,
    events: Sequence[FeedbackEvent],
    me: str,
    skipped: Collection[str] = (),
    a: str = "",
    b: str = "",
) -> tuple[Queue, Turn | None]:
    """The queue as it stands, and this rater's next turn; None when nothing is left.

    Raises:
        DataError: an arm has no answers, or there is nothing to compare.
    """
    queue = build_queue(result, events, a, b, limit=NEXT + len(skipped))
    mine = [e for e in events if e.kind == "pairwise" and e.actor.name == me]
    if len(mine) % SECOND_EVERY == SECOND_EVERY - 1:
        turn = _second(result, events, me, skipped, queue)
        if turn:
            return queue, turn
    for item in queue.items:
        if item.question_id not in skipped:
            return queue, _turn(result, item.question_id, item.arms, second=False)
    return queue, _second(result, events, me, skipped, queue)


def others(result: RunResult, events: Sequence[FeedbackEvent], me: str, turn: Turn) -> Others:
    """What others said of a pair; to be shown after the vote, never before."""
    first, second = (text_digest(x.text) for x in turn.answers)
    people: Counter[str] = Counter()
    judges: list[tuple[str, str]] = []
    compared: dict[tuple[str, str, str], dict[str, str]] = {}
    for p in preferences(events):
        pair = (p.question_id, p.a.text_sha256, p.b.text_sha256)
        if p.actor.kind == "person" and p.source != "edit":
            compared.setdefault(pair, {})[p.actor.name] = p.outcome
        if pair[0] == turn.question.id and {first, second} == set(pair[1:]):
            choice = _turned(p, first)
            if p.actor.kind == "judge":
                judges.append((p.actor.name, choice))
            elif p.actor.name != me:
                people[choice] += 1
    judges += _judged(events, turn.question.id, first, second)
    shared = [
        (said[me], other)
        for said in compared.values()
        if me in said
        for name, other in said.items()
        if name != me
    ]
    scores = {(s.question_id, s.arm): s.metrics.get("primary") for s in result.scores}
    x, y = (scores.get((turn.question.id, answer.arm)) for answer in turn.answers)
    alike = sum(mine == other for mine, other in shared)
    return Others(dict(people), tuple(judges), (x, y), alike, len(shared))


def turn_of(result: RunResult, question_id: str, arms: tuple[str, str]) -> Turn:
    """A turn that was shown before."""
    return _turn(result, question_id, arms, second=False)


def _turned(p: Preference, first: str) -> str:
    if p.outcome == "tie":
        return "tie"
    chosen = p.a if p.outcome == "a" else p.b
    return "a" if chosen.text_sha256 == first else "b"


def _judged(
    events: Sequence[FeedbackEvent], question_id: str, first: str, second: str
) -> list[tuple[str, str]]:
    """Judges that scored both answers, and which they found better."""
    scores: dict[str, dict[str, float]] = {}
    for g in grades(events):
        if g.actor.kind == "judge" and g.question_id == question_id:
            scores.setdefault(g.actor.name, {})[g.answer.text_sha256] = g.value
    found = []
    for name, by_text in scores.items():
        if first in by_text and second in by_text:
            gap = by_text[first] - by_text[second]
            found.append((name, "tie" if gap == 0 else "a" if gap > 0 else "b"))
    return found


def _second(
    result: RunResult,
    events: Sequence[FeedbackEvent],
    me: str,
    skipped: Collection[str],
    queue: Queue,
) -> Turn | None:
    """What another rater compared and this one has not, the least often compared first."""
    by: dict[str, set[str]] = {}
    for event in events:
        arms = {s.arm for s in event.shown}
        if event.kind == "pairwise" and event.actor.kind == "person" and arms == {queue.a, queue.b}:
            by.setdefault(event.question_id, set()).add(event.actor.name)
    have = {q.id for q in result.questions}
    waiting = [q for q, names in by.items() if me not in names and q not in skipped and q in have]
    if not waiting:
        return None
    chosen = min(waiting, key=lambda q: (len(by[q]), q))
    order = (queue.a, queue.b) if len(chosen) % 2 else (queue.b, queue.a)
    return _turn(result, chosen, order, second=True)


def _turn(result: RunResult, question_id: str, arms: tuple[str, str], *, second: bool) -> Turn:
    question = next(q for q in result.questions if q.id == question_id)
    found = {x.arm: x for x in result.answers if x.question_id == question_id}
    return Turn(question, (found[arms[0]], found[arms[1]]), second)
