"""What people say of answers, over HTTP: one event log that many threads write to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from domainlm.errors import DataError
from domainlm.feedback.log import EventLog
from domainlm.feedback.record import Words, from_answers, from_run, retraction
from domainlm.schema import Actor, FeedbackEvent, RunResult
from domainlm.server.answers import Answers


@dataclass(frozen=True, slots=True)
class Listed:
    """An event as a list shows it; `counts` is whether it was neither retracted nor replaced."""

    event: FeedbackEvent
    counts: bool
    text: str = ""
    """The first answer that was shown."""
    edit: str = ""


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
            event_id=event_id,
        )
        [kept] = self.log.append([event], texts)
        return kept

    def say_of_run(
        self, question_id: str, arms: Sequence[str], words: Words, actor: Actor, **more: str
    ) -> FeedbackEvent:
        """As `say`, about a finished run's answers to one of its questions.

        Raises:
            DataError: there is no finished run, or no such answer.
        """
        result = self._result()
        if result is None:
            raise DataError("there is no finished run yet; start the job 'run'")
        event, texts = from_run(result, question_id, arms, words, actor, **more)
        [kept] = self.log.append([event], texts)
        return kept

    def retract(self, event_id: str, reason: str, actor: Actor) -> FeedbackEvent:
        """Take an event back.

        Raises:
            DataError: there is none, or it is someone else's.
        """
        [kept] = self.log.append([retraction(event_id, reason, actor)])
        return kept
