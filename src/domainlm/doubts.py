"""Withholding in a run: learned on dev, applied to every answer, and to later ones alike."""

from __future__ import annotations

from collections.abc import Sequence

from domainlm.artifacts import RunDir, digest
from domainlm.config import Config
from domainlm.evaluation import selective
from domainlm.models.base import Embedder
from domainlm.schema import Answer, Doubt, Known, Question, QuestionSet, RunResult


def stage(
    config: Config,
    folder: RunDir,
    answers: Sequence[Answer],
    questions: QuestionSet,
    embedder: Embedder,
    key: str,
) -> tuple[list[Answer], tuple[Doubt, ...]]:
    """The run's answers, the doubtful ones withheld if `decoding.keep` asks for it.

    Returns:
        Answers, and what each arm learned: nothing where dev was too small to learn from.
    """
    keep = config.decoding.keep
    if keep is None:
        return list(answers), ()

    def learn() -> tuple[Doubt, ...]:
        known = _known(folder, questions, embedder)
        made = (
            selective.learn(arm, answers, questions.dev, known, embedder, keep)
            for arm in config.arms
        )
        return tuple(doubt for doubt in made if doubt)

    doubts: tuple[Doubt, ...] = folder.stage(
        "doubts",
        digest(
            key, keep, config.arms, [(a.arm, a.question_id, a.text) for a in answers], embedder.name
        ),
        tuple[Doubt, ...],
        learn,
    )
    if not doubts:
        return list(answers), ()
    asked = (*questions.dev, *questions.test)
    return apply(folder, answers, asked, doubts, questions, embedder), doubts


def warnings(config: Config, doubts: Sequence[Doubt]) -> list[str]:
    """What to say where answers should be withheld, but the arms learned no doubts."""
    if config.decoding.keep is None or doubts:
        return []
    least = f"{selective.MIN_ANSWERABLE} answerable and {selective.MIN_UNANSWERABLE} other"
    return [f"No answer was withheld: that takes {least} dev questions."]


def learned(config: Config, result: RunResult) -> tuple[Doubt, ...]:
    """The doubts of a finished run, unless it kept another share than is kept now."""
    kept = result.config.get("decoding", {}).get("keep")
    return result.doubts if kept == config.decoding.keep else ()


def apply(
    folder: RunDir,
    answers: Sequence[Answer],
    asked: Sequence[Question],
    doubts: Sequence[Doubt],
    questions: QuestionSet,
    embedder: Embedder,
) -> list[Answer]:
    """Withhold what the arms learned to withhold; `asked` holds the answered questions."""
    known = _known(folder, questions, embedder)
    return selective.withhold(answers, asked, {d.arm: d for d in doubts}, known, embedder)


def _known(folder: RunDir, questions: QuestionSet, embedder: Embedder) -> Known:
    known: Known = folder.stage(
        "known",
        digest([(q.text, q.references, q.task) for q in questions.train], embedder.name),
        Known,
        lambda: selective.known_answers(questions.train, embedder),
    )
    return known
