"""Corrected answers in a JSONL file, as lessons for a round.

    {"id": "e1", "question_id": "q7", "answer": "The site manager."}
    {"id": "e2", "question_id": "new-3", "text": "Who …?", "answer": "…", "doc_ids": ["a.pdf"]}

A question of the train split gets the corrected answer; one with `text` is new. What touches the
questions or documents that models are measured on is set aside, never trained on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from domainlm.artifacts import digest
from domainlm.corpus.splits import near_duplicate_filter
from domainlm.errors import DataError
from domainlm.exclusions import Exclusions
from domainlm.feedback.quarantine import repeats
from domainlm.schema import ABSTENTION, Lessons, Question, QuestionSet, TrainingRow

_MAX_ANSWER = 20_000


@dataclass(frozen=True, slots=True)
class Correction:
    """What the answer to a question should be; `text` and `doc_ids` describe a new question."""

    question_id: str
    answer: str
    id: str = ""
    text: str = ""
    doc_ids: tuple[str, ...] = ()


def corrected(
    path: Path,
    questions: QuestionSet,
    build: Callable[[Sequence[Question]], list[TrainingRow]],
    excluded: Exclusions,
) -> Lessons:
    """What a file of corrections teaches: one row a corrected question, with the event behind it.
    What is excluded counts as never written.

    Raises:
        DataError: the file is missing, or a line is no correction.
    """
    made = [c for c in read_corrections(path) if not excluded.hit((c.id, *c.doc_ids))]
    wanted, events, refused = _admitted(made, questions)
    rows = tuple(
        dataclasses.replace(row, id=f"corrected-{row.id}", events=(events[row.question_id],))
        for row in build(wanted)
    )
    return Lessons(rows, refused=tuple(refused))


def _admitted(
    corrections: Sequence[Correction], questions: QuestionSet
) -> tuple[list[Question], dict[str, str], list[tuple[str, str]]]:
    """Questions with their new answers, the correction of each, and what was set aside."""
    train = {q.id: q for q in questions.train}
    held_out = (*questions.dev, *questions.test)
    held_ids = {q.id for q in held_out}
    allowed = set(questions.train_doc_ids)
    # Without a document nothing tells a question of the same words apart from a held-out one.
    repeated = repeats([c.text for c in corrections if not c.doc_ids], questions)
    wanted: dict[str, Question] = {}
    events: dict[str, str] = {}
    refused: list[tuple[str, str]] = []
    for c in corrections:
        known = train.get(c.question_id)
        reason = ""
        if c.question_id in held_ids:
            reason = f"question {c.question_id!r} is held out for measuring"
        elif known is None and not c.text.strip():
            reason = f"question {c.question_id!r} is unknown and the correction has no text"
        elif known is None and (outside := [d for d in c.doc_ids if d not in allowed]):
            reason = f"document {outside[0]!r} is unknown or held out for measuring"
        elif known is None and not c.doc_ids and c.text in repeated:
            reason = f"it repeats held-out question {repeated[c.text]!r}; name its documents"
        if reason:
            refused.append((c.id, reason))
            continue
        if earlier := events.get(c.question_id):
            refused.append((earlier, f"a later correction, {c.id!r}, takes its place"))
        events[c.question_id] = c.id
        wanted[c.question_id] = _corrected(known, c)
    fresh = [q for q in wanted.values() if q.id not in train]
    kept, alike = near_duplicate_filter(fresh, held_out)
    refused += [(events[i], reason) for i, reason in alike]
    return [q for q in wanted.values() if q.id in train or q in kept], events, refused


def read_corrections(path: Path) -> list[Correction]:
    """The corrections of a JSONL file; one without an id is known by its content.

    Raises:
        DataError: the file is missing, or a line is no correction.
    """
    reader = TypeAdapter(Correction)
    found = []
    try:
        lines = path.read_text("utf-8-sig").split("\n")
    except FileNotFoundError:
        raise DataError(
            f"corrections file {path} does not exist; write one JSON object a line with "
            "question_id and answer, or name another with --corrections"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"corrections file {path} cannot be read: {str(error):.200}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            made = reader.validate_json(line)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or "the line"
            raise DataError(
                f"{path.name}, line {number}: {where}: {first['msg']}; each line needs question_id "
                "and answer"
            ) from None
        if not made.answer.strip() or len(made.answer) > _MAX_ANSWER:
            raise DataError(
                f"{path.name}, line {number}: the answer has {len(made.answer.strip())} "
                f"characters; it must have 1 to {_MAX_ANSWER} (for none, write {ABSTENTION!r})"
            )
        found.append(made if made.id else dataclasses.replace(made, id=digest(made)))
    return found


def _corrected(known: Question | None, correction: Correction) -> Question:
    answer = correction.answer.strip()
    question = known or Question(
        correction.question_id,
        correction.text.strip(),
        doc_ids=tuple(dict.fromkeys(correction.doc_ids)),
        split="train",
    )
    if answer == ABSTENTION:
        return dataclasses.replace(question, references=(), task="unanswerable", metadata={})
    # Metadata may ask for the evidence as the answer, which is what was corrected.
    return dataclasses.replace(question, references=(answer,), metadata={})
