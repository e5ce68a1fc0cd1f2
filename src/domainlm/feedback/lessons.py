"""Lessons of a round: from an event log and a file of corrections to what training learns.

Whom to trust and what follows is settled in `rows`; here sources are joined, and what is held out,
forgotten or too little is left out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from domainlm.config.sections import ImproveConfig
from domainlm.exclusions import Exclusions
from domainlm.feedback.events import references
from domainlm.feedback.judges import reports_of
from domainlm.feedback.log import EventLog
from domainlm.feedback.quarantine import quarantine
from domainlm.feedback.rows import FeedbackRows, feedback_rows
from domainlm.schema import (
    Lessons,
    PreferencePair,
    Question,
    QuestionSet,
    ThumbRow,
    TrainingRow,
)

Row = TypeVar("Row", TrainingRow, PreferencePair, ThumbRow)


@dataclass(frozen=True)
class Taught:
    """One step of training: how many rows feedback gave it, or why it gave none."""

    step: Literal["SFT", "DPO", "KTO"]
    rows: int
    skipped: str = ""


def learned(
    path: Path,
    questions: QuestionSet,
    written: Sequence[Question] = (),
    *,
    trust: float | None = None,
    excluded: Exclusions | None = None,
) -> FeedbackRows:
    """What people and trusted judges said in the log at `path`, as training rows.

    Args:
        path: of the event log.
        questions: the split in force now.
        written: synthetic train questions.
        trust: as in `judges.reports_of`.
        excluded: what is to be forgotten; such an event counts as never written.

    Raises:
        DataError: there is no log, or it is damaged.
    """
    forgotten = excluded or Exclusions(())
    with EventLog(path, create=False) as log:
        events = [e for e in log.current() if e.id not in forgotten]
        usable, _ = quarantine(events, questions, written)
        texts = log.texts(sha for event in usable for sha in references(event))
    reports = reports_of(events, trust)
    return feedback_rows(events, texts, questions, reports, written=written)


def joined(file: Lessons, log: Lessons) -> Lessons:
    """A file of corrections and the event log together; the file's word on a question stands."""
    mended = {row.question_id for row in file.rows}
    late = {e for row in log.rows if row.question_id in mended for e in row.events}
    return Lessons(
        (*file.rows, *(row for row in log.rows if row.question_id not in mended)),
        tuple(p for p in log.pairs if late.isdisjoint(p.events)),
        log.thumbs,
        (
            *file.refused,
            *log.refused,
            *((event, "a corrections file corrects its question") for event in sorted(late)),
        ),
    )


def admit(lessons: Lessons, held_out: frozenset[str]) -> Lessons:
    """The lessons without what is about held-out questions; a row without a question id could be
    about anything, so it is refused too.
    """
    refused: list[tuple[str, str]] = list(lessons.refused)

    def keep(rows: Sequence[Row]) -> tuple[Row, ...]:
        kept = []
        for row in rows:
            if row.question_id and row.question_id not in held_out:
                kept.append(row)
                continue
            held = f"question {row.question_id!r} is held out for measuring"
            reason = held if row.question_id else "it names no question"
            refused.extend((event, reason) for event in row.events or (row.id,))
        return tuple(kept)

    rows, pairs, thumbs = keep(lessons.rows), keep(lessons.pairs), keep(lessons.thumbs)
    return Lessons(rows, pairs, thumbs, tuple(refused))


def remembered(lessons: Lessons, excluded: Exclusions) -> Lessons:
    """The lessons without what is to be forgotten."""
    return dataclasses.replace(
        lessons,
        rows=excluded.keep(lessons.rows),
        pairs=excluded.keep(lessons.pairs),
        thumbs=excluded.keep(lessons.thumbs),
    )


def enough(
    lessons: Lessons, settings: ImproveConfig
) -> tuple[Lessons, tuple[Taught, Taught, Taught]]:
    """The lessons without those too few to train on, and what each step of training gets.

    What does not train is no part of a model's recipe: the same weights must not stand at the gate
    twice because one more thumb was given.
    """
    pairs, thumbs = lessons.pairs, lessons.thumbs
    good = sum(t.good for t in thumbs)
    bad = len(thumbs) - good
    no_rows = "" if lessons.rows else "no edits or corrections, the domain's own rows alone"
    no_pairs = no_thumbs = ""
    if len(pairs) < settings.min_pairs:
        no_pairs = f"{len(pairs)} pairs are fewer than improve.min_pairs={settings.min_pairs}"
        pairs = ()
    if min(good, bad) < settings.min_thumbs:
        no_thumbs = (
            f"{good} good and {bad} bad answers, and improve.min_thumbs={settings.min_thumbs} of "
            "each are needed"
        )
        thumbs = ()
    return Lessons(lessons.rows, pairs, thumbs, lessons.refused), (
        Taught("SFT", len(lessons.rows), no_rows),
        Taught("DPO", len(pairs), no_pairs),
        Taught("KTO", len(thumbs), no_thumbs),
    )


def merged(own: Sequence[TrainingRow], new: Lessons) -> Lessons:
    """All there is to learn: a corrected question loses its own rows, which say something else."""
    mended = {row.question_id for row in new.rows}
    kept = (row for row in own if row.question_id not in mended)
    return dataclasses.replace(new, rows=(*kept, *new.rows))
