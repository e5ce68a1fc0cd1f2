"""A person's words about answers of a finished run, or of `ask`, as an event for the log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from domainlm.errors import DataError
from domainlm.feedback.asked import Asked
from domainlm.feedback.events import MAX_REASON, MAX_TEXT, plain_text, show, text_digest
from domainlm.schema import (
    Actor,
    Answer,
    Edit,
    FeedbackEvent,
    Flag,
    Pairwise,
    Payload,
    Preferred,
    Question,
    Rank,
    Rating,
    Retract,
    RunResult,
    Thumb,
)

_THUMBS = {"up": True, "down": False}
_UNDECIDED: dict[str, Preferred] = {"tie": "tie", "both_bad": "both_bad", "both-bad": "both_bad"}


@dataclass(frozen=True, slots=True)
class Words:
    """What a person says; exactly one of these is given.

    `thumb` is "up" or "down", `rating` 1 to 5, `edit` the corrected answer, `prefer` the better of
    two arms, "tie" or "both_bad", `rank` arms, best first, `flag` a reason.
    """

    thumb: str = ""
    rating: int | None = None
    edit: str = ""
    prefer: str = ""
    rank: tuple[str, ...] = ()
    flag: str = ""


def from_run(
    result: RunResult,
    question_id: str,
    arms: Sequence[str],
    words: Words,
    actor: Actor,
    *,
    rubric: str = "",
    supersedes: str = "",
) -> tuple[FeedbackEvent, dict[str, str]]:
    """An event about a finished run's answers to a question, and its texts by SHA-256.

    Args:
        result: the run.
        question_id: one of its questions.
        arms: whose answers were shown, in that order; none means the shipped arm, or what `words`
            ranks.
        words: what is said.
        actor: who says it.
        rubric: version of the rules of judging.
        supersedes: id of an earlier event of the same person that this one replaces.

    Raises:
        DataError: the run has no such question or answer, or not exactly one thing is said.
    """
    question = next((q for q in result.questions if q.id == question_id), None)
    if question is None:
        some = ", ".join(q.id for q in result.questions[:5])
        raise DataError(f"no question {question_id!r} in this run; there are {some}, …")
    _only_one(words, arms)
    wanted = list(arms) or list(words.rank) or [_shipped(result)]
    answers = [_answer(result, question, arm) for arm in wanted]
    return _event(question, answers, words, actor, rubric, supersedes)


def from_asked(
    asked: Asked, words: Words, actor: Actor, *, rubric: str = "", supersedes: str = ""
) -> tuple[FeedbackEvent, dict[str, str]]:
    """As `from_run`, about the one answer that `ask` gave.

    Raises:
        DataError: not exactly one thing is said, or it is about several answers.
    """
    _only_one(words, [asked.answer.arm])
    return _event(asked.question, [asked.answer], words, actor, rubric, supersedes)


def from_answers(
    question: Question,
    answers: Sequence[Answer],
    words: Words,
    actor: Actor,
    *,
    rubric: str = "",
    supersedes: str = "",
) -> tuple[FeedbackEvent, dict[str, str]]:
    """As `from_run`, about answers that were shown in this order; `prefer` and `rank` name their
    ids, as arms may recur.

    Raises:
        DataError: not exactly one thing is said, or not of as many answers as it takes.
    """
    ids = [show(answer)[0].answer_id for answer in answers]
    _only_one(words, ids)
    return _event(question, answers, words, actor, rubric, supersedes, ids)


def _only_one(words: Words, arms: Sequence[str]) -> None:
    """Refuse words that say nothing, several things, or one thing of several answers."""
    given = [
        name
        for name in ("thumb", "rating", "edit", "prefer", "rank", "flag")
        if getattr(words, name) not in ("", None, ())
    ]
    if len(given) != 1:
        raise DataError(
            f"{len(given)} kinds of feedback were given ({', '.join(given) or 'none'}); give one "
            "of thumb, rating, edit, prefer, rank and flag"
        )
    if len(arms) > 1 and given[0] not in ("prefer", "rank"):
        raise DataError(
            f"a {given[0]} is about one answer, and {len(arms)} arms were named; name one"
        )


def _event(
    question: Question,
    answers: Sequence[Answer],
    words: Words,
    actor: Actor,
    rubric: str,
    supersedes: str,
    names: Sequence[str] = (),
) -> tuple[FeedbackEvent, dict[str, str]]:
    """`names` are what `words` calls the answers: their arms, if nothing else is said."""
    texts: dict[str, str] = {}
    shown = []
    for answer in answers:
        entry, its_texts = show(answer)
        shown.append(entry)
        texts |= its_texts
    names = list(names) or [a.arm for a in answers]
    by_name = dict(zip(names, (s.answer_id for s in shown), strict=True))
    payload = _payload(words, names, by_name)
    if isinstance(payload, Edit):
        texts[payload.text_sha256] = plain_text(words.edit, "the corrected answer")
    event = FeedbackEvent(
        actor=actor,
        question_id=question.id,
        question=question.text,
        payload=payload,
        shown=tuple(shown),
        split=question.split,
        doc_ids=question.doc_ids,
        rubric=rubric,
        supersedes=supersedes,
    )
    return event, texts


def retraction(event_id: str, reason: str, actor: Actor) -> FeedbackEvent:
    """An event that takes an earlier one back."""
    why = plain_text(reason, "the reason") if reason else ""
    return FeedbackEvent(actor, "", "", Retract(event_id, why))


def _payload(words: Words, arms: Sequence[str], answer_ids: dict[str, str]) -> Payload:
    if words.thumb:
        if words.thumb not in _THUMBS:
            raise DataError(f"thumb {words.thumb!r} is unknown; use up or down")
        return Thumb(_THUMBS[words.thumb])
    if words.rating is not None:
        return Rating(words.rating)
    if words.edit:
        text = plain_text(words.edit, "the corrected answer")
        if len(text) > MAX_TEXT:
            raise DataError(
                f"the corrected answer has {len(text):,} characters; at most {MAX_TEXT:,} are kept"
            )
        return Edit(text_digest(text))
    if words.flag:
        if len(words.flag) > MAX_REASON:
            raise DataError(
                f"the reason has {len(words.flag):,} characters; at most {MAX_REASON:,} are kept"
            )
        return Flag(plain_text(words.flag, "the reason"))
    if words.rank:
        if sorted(words.rank) != sorted(arms):
            raise DataError(
                f"the rank names {', '.join(words.rank)}, but {', '.join(arms)} were shown; rank "
                "each arm once"
            )
        return Rank(tuple(answer_ids[arm] for arm in words.rank))
    if len(arms) != 2:
        raise DataError(
            f"a choice is between two answers, and {len(arms)} were shown; name two arms in the "
            "order they were shown"
        )
    if words.prefer not in (*arms, *_UNDECIDED):
        raise DataError(
            f"choice {words.prefer!r} is neither of {' and '.join(arms)}; name one of them, tie or "
            "both_bad"
        )
    sides: tuple[Preferred, Preferred] = ("a", "b")
    chosen = sides[list(arms).index(words.prefer)] if words.prefer in arms else None
    return Pairwise(chosen or _UNDECIDED[words.prefer])


def _answer(result: RunResult, question: Question, arm: str) -> Answer:
    found = next((a for a in result.answers if a.question_id == question.id and a.arm == arm), None)
    if found is None:
        arms = sorted({a.arm for a in result.answers if a.question_id == question.id})
        raise DataError(
            f"this run has no answer of {arm!r} to {question.id!r}; there are {', '.join(arms)}"
        )
    return found


def _shipped(result: RunResult) -> str:
    arms = [a.arm for a in result.answers]
    return result.verdict.ship if result.verdict.ship in arms else arms[0]
