"""What people say of answers, over HTTP: one event log that many threads write to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from domainlm.errors import DataError
from domainlm.feedback.log import EventLog, current_view
from domainlm.feedback.record import Words, from_answers, from_run, retraction
from domainlm.schema import (
    Actor,
    Edit,
    FeedbackEvent,
    Flag,
    Judgement,
    Pairwise,
    Rank,
    Rating,
    Retract,
    RunResult,
    Thumb,
)
from domainlm.server.answers import Answers


@dataclass(frozen=True, slots=True)
class Listed:
    """An event as a list shows it: `counts` is whether it was neither retracted nor replaced,
    `value` what was said in a word, `text` the first answer that was shown.
    """

    event: FeedbackEvent
    counts: bool
    value: str
    text: str
    edit: str


class Opinions:
    """The event log as the server uses it: a connection for each thread."""

    def __init__(
        self, path: Path, answers: Answers, result: Callable[[], RunResult | None]
    ) -> None:
        self.path = path
        self._answers, self._result = answers, result
        self._own = threading.local()

    @property
    def log(self) -> EventLog:
        """This thread's connection.

        Raises:
            DataError: the log cannot be used.
        """
        found: EventLog | None = getattr(self._own, "log", None)
        if found is None:
            found = self._own.log = EventLog(self.path)
        return found

    def say(
        self,
        answer_ids: Sequence[str],
        words: Words,
        actor: Actor,
        *,
        event_id: str = "",
        rubric: str = "",
        supersedes: str = "",
    ) -> FeedbackEvent:
        """Keep what someone says of answers that were given; on the disk when this returns.

        Args:
            answer_ids: ids of the answers, in the order in which they were shown.
            words: what is said; `prefer` and `rank` name ids.
            actor: who says it.
            event_id: chosen by the sender, who may then send it again without harm.
            rubric: version of the rules of judging.
            supersedes: an earlier event of the same person that this one replaces.

        Raises:
            DataError: there is no such answer, or it cannot be kept.
        """
        given = [self._answers.find(i) for i in answer_ids]
        questions = {g.question.id: g.question for g in given}
        if len(questions) != 1:
            raise DataError(
                f"the answers belong to {len(questions)} questions; name answers to one question"
            )
        event, texts = from_answers(
            given[0].question,
            [g.answer for g in given],
            words,
            actor,
            rubric=rubric,
            supersedes=supersedes,
        )
        [kept] = self.log.append([replace(event, id=event_id)], texts)
        return kept

    def say_of_run(
        self,
        question_id: str,
        arms: Sequence[str],
        words: Words,
        actor: Actor,
        *,
        event_id: str = "",
        rubric: str = "",
        supersedes: str = "",
    ) -> FeedbackEvent:
        """As `say`, about a finished run's answers to one of its questions.

        Raises:
            DataError: there is no finished run, or no such answer.
        """
        result = self._result()
        if result is None:
            raise DataError("there is no finished run yet; start the job 'run'")
        event, texts = from_run(
            result, question_id, arms, words, actor, rubric=rubric, supersedes=supersedes
        )
        [kept] = self.log.append([replace(event, id=event_id)], texts)
        return kept

    def retract(self, event_id: str, reason: str, actor: Actor) -> FeedbackEvent:
        """Take an event back.

        Raises:
            DataError: there is none, or it is someone else's.
        """
        [kept] = self.log.append([retraction(event_id, reason, actor)])
        return kept

    def find(
        self,
        words: str = "",
        kind: str = "",
        by: str = "",
        question_id: str = "",
        counts: bool | None = None,
        *,
        offset: int = 0,
        limit: int = 50,
    ) -> tuple[int, list[Listed]]:
        """Events that match, newest first: how many there are, and a page of them.

        Args:
            words: all of them are in the question.
            kind: of the event.
            by: name of the person or judge.
            question_id: the question.
            counts: whether they still count; None for both.
            offset: how many to skip.
            limit: most events.
        """
        if not self.path.exists():
            return 0, []
        events = list(self.log.read())
        current = {e.id for e in current_view(events)}
        wanted = words.casefold().split()
        found = [
            e
            for e in reversed(events)
            if kind in ("", e.kind)
            and by in ("", e.actor.name)
            and question_id in ("", e.question_id)
            and counts in (None, e.id in current)
            and all(w in e.question.casefold() for w in wanted)
        ]
        page = found[offset : offset + limit]
        texts = self.log.texts({sha for e in page for sha in _needed(e)})
        return len(found), [_listed(e, e.id in current, texts) for e in page]


def _needed(event: FeedbackEvent) -> list[str]:
    edit = [event.payload.text_sha256] if isinstance(event.payload, Edit) else []
    return [*(s.text_sha256 for s in event.shown[:1]), *edit]


def _listed(event: FeedbackEvent, counts: bool, texts: Mapping[str, str]) -> Listed:
    return Listed(
        event,
        counts,
        said(event),
        texts.get(event.shown[0].text_sha256, "") if event.shown else "",
        texts.get(event.payload.text_sha256, "") if isinstance(event.payload, Edit) else "",
    )


def said(event: FeedbackEvent) -> str:
    """What an event says, in a word or two."""
    match event.payload:
        case Thumb(up=up):
            return "up" if up else "down"
        case Rating(score=score):
            return str(score)
        case Pairwise(preferred=preferred):
            return preferred
        case Rank(order=order):
            arms = {s.answer_id: s.arm for s in event.shown}
            return " > ".join(arms.get(i, i) for i in order)
        case Flag(reason=reason) | Retract(reason=reason):
            return reason
        case Judgement(score=score, preferred=preferred):
            return preferred or f"{score:.2f}"
    return ""
