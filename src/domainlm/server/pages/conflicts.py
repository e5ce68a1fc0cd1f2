"""Where people contradict each other, and how an adjudicator settles it.

Settled as in `feedback.rows`: a person's newest word stands, an adjudicator's before all others.
Conflicts about held-out questions count too: they spoil what the gate measures.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from domainlm.feedback.events import ADJUDICATOR, text_digest
from domainlm.feedback.opinions import grades, preferences
from domainlm.schema import (
    Actor,
    Edit,
    FeedbackEvent,
    Pairwise,
    Payload,
    Shown,
    Thumb,
)

Kind = Literal["grade", "choice", "edit"]


@dataclass(frozen=True, slots=True)
class Voice:
    """One person's word: a choice and, for an edit, its text."""

    name: str
    choice: str
    event_id: str
    text: str = ""


@dataclass(frozen=True, slots=True)
class Conflict:
    """What people contradict each other about. `key` names it, `shown` are the answers."""

    key: str
    kind: Kind
    question_id: str
    question: str
    shown: tuple[Shown, ...]
    texts: tuple[str, ...]
    voices: tuple[Voice, ...]


def conflicts(events: Sequence[FeedbackEvent], texts: Mapping[str, str]) -> list[Conflict]:
    """All open conflicts among people, oldest question first.

    Args:
        events: the current view of the log.
        texts: kept texts by SHA-256.
    """
    by_id = {e.id: e for e in events}
    words: dict[tuple[str, ...], dict[str, tuple[Actor, str, str]]] = defaultdict(dict)
    shown: dict[tuple[str, ...], tuple[Shown, ...]] = {}

    def said(place: tuple[str, ...], actor: Actor, choice: str, event: str, *what: Shown) -> None:
        if actor.kind == "person":
            words[place].pop(actor.name, None)
            words[place][actor.name] = (actor, choice, event)
            shown[place] = what

    for g in grades(events):
        if g.good is not None:
            choice = "good" if g.good else "bad"
            said(("grade", g.question_id, g.answer.text_sha256), g.actor, choice, g.event_id,
                 g.answer)  # fmt: skip
    for p in preferences(events):
        if p.source != "edit":
            pair = ("choice", p.question_id, p.a.text_sha256, p.b.text_sha256)
            said(pair, p.actor, p.outcome, p.events[-1], p.a, p.b)
    for event in events:
        if isinstance(event.payload, Edit):
            answer = ("edit", event.question_id, event.shown[0].text_sha256)
            said(answer, event.actor, event.payload.text_sha256, event.id, event.shown[0])
    found = []
    for place, by_name in words.items():
        if any(actor.role == ADJUDICATOR for actor, _, _ in by_name.values()):
            continue
        if len({choice for _, choice, _ in by_name.values()} - {"tie"}) < 2:
            continue
        kind: Kind = place[0]  # type: ignore[assignment]
        voices = tuple(
            Voice(name, choice, event, texts.get(choice, "") if kind == "edit" else "")
            for name, (_, choice, event) in by_name.items()
        )
        first = by_id[voices[0].event_id]
        answers = shown[place]
        found.append(
            Conflict(
                "-".join((place[0], text_digest("\0".join(place))[:20])),
                kind,
                place[1],
                first.question,
                answers,
                tuple(texts.get(s.text_sha256, "") for s in answers),
                voices,
            )
        )
    return found


def settled(conflict: Conflict, choice: str, actor: Actor, origin: FeedbackEvent) -> FeedbackEvent:
    """The event by which an adjudicator settles a conflict.

    Args:
        conflict: what is settled.
        choice: "good" or "bad", "a", "b" or "tie", or the SHA-256 of the right text.
        actor: a person with the adjudicator's role.
        origin: an event of the conflict, which tells split and documents.
    """
    payload: Payload
    if conflict.kind == "grade":
        payload = Thumb(choice == "good")
    elif conflict.kind == "choice":
        payload = Pairwise(choice)  # type: ignore[arg-type]
    else:
        payload = Edit(choice)
    return FeedbackEvent(
        actor,
        conflict.question_id,
        conflict.question,
        payload,
        conflict.shown,
        origin.split,
        origin.doc_ids,
        origin.rubric,
    )


def allowed(conflict: Conflict) -> tuple[str, ...]:
    """The choices that an adjudicator has."""
    if conflict.kind == "grade":
        return ("good", "bad")
    if conflict.kind == "choice":
        return ("a", "b", "tie")
    return tuple(dict.fromkeys(v.choice for v in conflict.voices))
