"""Answers scored again, or those of an external system scored: nothing is asked or trained."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from domainlm import doubts, fetching, pricing, provenance
from domainlm.artifacts import digest
from domainlm.config import Config
from domainlm.config.sections import DecodingConfig
from domainlm.contenders import load_configured_embedder
from domainlm.corpus.external import External
from domainlm.corpus.sets import read_asked
from domainlm.errors import DataError
from domainlm.evaluation import summary
from domainlm.evaluation.groundedness import score_grounded
from domainlm.models.base import Embedder
from domainlm.paired import TEST_SPLITS, Side, asked_of
from domainlm.schema import ArmSummary, Question, RunResult, Score

SIMILARITY = "semantic_similarity"
GOLD_FREE = ("groundedness", "citation_precision", "citation_recall")
"""What is said of an answer and its passages alone; it stays as the run measured it."""


@dataclass(frozen=True, slots=True)
class ArmChange:
    """What scoring again changed for one arm on the test questions."""

    arm: str
    before: float
    after: float
    """Primary score over all test questions."""
    outcomes: int
    """Answers whose outcome is another now."""


@dataclass(frozen=True, slots=True)
class Rescored:
    """A run scored again, what that changed, and what was left out."""

    result: RunResult
    changes: tuple[ArmChange, ...]
    gold: int
    """Questions whose gold is another now."""
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ExternalScores:
    """An external system's answers, scored."""

    name: str
    questions: tuple[Question, ...]
    scores: tuple[Score, ...]
    summaries: tuple[ArmSummary, ...]
    notes: tuple[str, ...]

    def side(self) -> Side:
        """As one side of a comparison."""
        return Side(self.name, asked_of(self.questions), self.scores)


def rescore(config: Config, result: RunResult, now: dt.datetime, *, count: bool = True) -> Rescored:
    """Score a finished run's answers with the metrics, thresholds, gold and prices of today.

    Right answers, evidence, choices and tasks are read again from the questions file; questions
    whose text changed there were not the ones that were answered, and are left out.

    Args:
        config: The settings that now hold.
        result: The finished run.
        now: Prices are old or not on this day.
        count: Whether this look at the test questions is counted; a preview is not written down.

    Raises:
        DataError: the questions file is broken, or holds none of the answered questions.
        ConfigError: a price or its name is wrong.
    """
    # The answers were decoded, and withheld, as the run was told to.
    decoding = DecodingConfig.model_validate(result.config.get("decoding", {}))
    ran = config.model_copy(update={"decoding": decoding})
    questions, notes = _regraded(config, result.questions)
    kept = {q.id for q in questions}
    answers = tuple(a for a in result.answers if a.question_id in kept)
    embedder: Embedder | None = None
    if any(SIMILARITY in s.metrics for s in result.scores):
        embedder = load_configured_embedder(config)
    old = {(s.arm, s.question_id): s.metrics for s in result.scores}
    scores = tuple(
        _with_gold_free(s, old.get((s.arm, s.question_id), {}))
        for s in score_grounded(answers, questions, embedder)
    )
    moved = {(s.arm, s.question_id, s.outcome) for s in result.scores} != {
        (s.arm, s.question_id, s.outcome) for s in scores
    }
    prices = pricing.check(config)
    dev = [s for s in scores if s.split == "dev"]
    test = [s for s in scores if s.split != "dev"]
    memory = {s.arm: s.peak_memory_bytes for s in result.summaries}
    spent = pricing.answer_costs(config, prices, answers)
    summaries = summary.summarise(test, answers, spent, peak_memory=memory)
    summaries = _with_old_latency(summaries, result.summaries)
    contrasts = summary.contrasts(test, margin=config.evaluation.margin, dev=dev)
    settled = pricing.settle(
        config,
        prices,
        summaries,
        contrasts,
        answers,
        scores,
        result.setups,
        result.churn,
        now.date(),
        [
            *(warning for adapter in result.adapters for warning in adapter.warnings),
            *doubts.warnings(ran, result.doubts),
            *fetching.sentences(ran, result.fetching),
        ],
        result.latency,
        () if moved else result.controls,
    )
    touches = result.test_touches
    # The same scores are no new look.
    if count and list(scores) != list(result.scores):
        touches = provenance.touch_test(
            config.output,
            [q for q in questions if q.split in TEST_SPLITS],
            digest([(s.arm, s.question_id, s.metrics, s.outcome) for s in scores]),
        )
    made = dataclasses.replace(
        result,
        created_at=now.isoformat(timespec="seconds"),
        config=ran.model_dump(mode="json"),
        questions=questions,
        answers=answers,
        scores=scores,
        summaries=tuple(summaries),
        contrasts=tuple(contrasts),
        roi=settled.cases,
        break_evens=settled.break_evens,
        money=settled.money,
        verdict=settled.verdict,
        standings=settled.standings,
        test_touches=touches,
        # Which answers are missed changed; `domainlm diagnose` follows them anew.
        waterfalls=() if moved else result.waterfalls,
        controls=() if moved else result.controls,
        seeds=() if moved else result.seeds,
    )
    old_gold = asked_of(result.questions)
    new_gold = asked_of(questions)
    gold = sum(new_gold[q].gold != old_gold[q].gold for q in new_gold)
    return Rescored(made, tuple(_changes(result, made)), gold, tuple(notes))


def score_external(
    config: Config, external: External, result: RunResult | None = None
) -> ExternalScores:
    """Score an external system's answers against the questions of a configuration.

    Args:
        config: Names the questions file.
        external: The answers.
        result: A finished run of the configuration, whose test questions then count; without one
            all questions of the file do, except those marked train or dev.

    Raises:
        DataError: an answer is for an unknown question, or none is for a test question.
    """
    if result is None:
        every = read_asked(config.questions, config.format)
        test = [
            dataclasses.replace(q, split="test_new")
            for q in every
            if q.split not in ("train", "dev") and (q.references or q.task == "unanswerable")
        ]
        known = {q.id for q in every}
    else:
        test = [q for q in result.questions if q.split in TEST_SPLITS]
        known = {q.id for q in result.questions}
        if config.questions.exists():
            known |= {q.id for q in read_asked(config.questions, config.format)}
    unknown = [a.question_id for a in external.answers if a.question_id not in known]
    if unknown:
        raise DataError(
            f"{external.name} answers {len(unknown)} questions that {config.questions} does not "
            f"have (the first is {unknown[0]!r}); use the ids of that file"
        )
    return against(external, test)


def against(external: External, test: Sequence[Question]) -> ExternalScores:
    """Score the answers to these test questions; others are left out, which the notes say.

    Raises:
        DataError: none of the answers is for one of them.
    """
    by_id = {q.id: q for q in test}
    answers = [a for a in external.answers if a.question_id in by_id]
    if not answers:
        some = ", ".join(q.id for q in test[:3])
        raise DataError(
            f"{external.name} answers none of the {len(test)} test questions (answers in it: "
            f"{len(external.answers)}); question_id must be one of {some}, …"
        )
    questions = tuple(by_id[a.question_id] for a in answers)
    scores = tuple(score_grounded(answers, questions))
    costs = [external.costs.get(a.question_id, 0.0) for a in answers]
    notes = []
    if len(answers) < len(external.answers):
        notes.append(
            f"{len(external.answers) - len(answers)} answers are not for test questions and do "
            "not count."
        )
    if len(answers) < len(test):
        notes.append(f"{len(test) - len(answers)} of {len(test)} test questions have no answer.")
    if 0 < len(external.costs) < len(answers):
        notes.append("Not every answer has a cost_usd; those without count as free.")
    return ExternalScores(
        external.name,
        questions,
        scores,
        tuple(summary.summarise(scores, answers, costs)),
        tuple(notes),
    )


def _with_gold_free(score: Score, before: Mapping[str, float]) -> Score:
    kept = {k: v for k, v in before.items() if k in GOLD_FREE and k not in score.metrics}
    return dataclasses.replace(score, metrics=score.metrics | kept)


def _regraded(
    config: Config, answered: Sequence[Question]
) -> tuple[tuple[Question, ...], list[str]]:
    """The answered questions with the gold of the questions file."""
    current = {q.id: q for q in read_asked(config.questions, config.format)}
    kept, gone, reworded = [], 0, 0
    for old in answered:
        new = current.get(old.id)
        if new is None or not (new.references or new.task == "unanswerable"):
            gone += 1
        elif new.text != old.text:
            reworded += 1
        else:
            # Document names were resolved when the run read them.
            kept.append(
                dataclasses.replace(
                    new, doc_ids=old.doc_ids, scope=old.scope, split=old.split, origin=old.origin
                )
            )
    if not any(q.split in TEST_SPLITS for q in kept):
        raise DataError(
            f"{config.questions} holds none of the {len(answered)} questions that were answered; "
            "point `questions` at their file"
        )
    notes = []
    if gone:
        notes.append(f"{gone} answered questions are gone from {config.questions.name}.")
    if reworded:
        notes.append(f"{reworded} questions were reworded since they were answered: left out.")
    return tuple(kept), notes


def _with_old_latency(made: Sequence[ArmSummary], old: Sequence[ArmSummary]) -> list[ArmSummary]:
    """Single questions were timed when they were answered."""
    timed: Mapping[tuple[str, str, str], ArmSummary] = {(s.arm, s.task, s.split): s for s in old}
    return [
        dataclasses.replace(
            s, latency_p50_s=before.latency_p50_s, latency_p95_s=before.latency_p95_s
        )
        if (before := timed.get((s.arm, s.task, s.split)))
        else s
        for s in made
    ]


def _changes(before: RunResult, after: RunResult) -> list[ArmChange]:
    """What each arm scores on all test questions, before and after."""
    old, new = (
        {
            s.arm: s.metrics["primary"].value
            for s in result.summaries
            if (s.task, s.split) == (summary.ALL, summary.TEST) and "primary" in s.metrics
        }
        for result in (before, after)
    )
    outcome = {(s.arm, s.question_id): s.outcome for s in before.scores}
    moved = Counter(
        s.arm
        for s in after.scores
        if s.split in TEST_SPLITS and outcome.get((s.arm, s.question_id)) != s.outcome
    )
    return [ArmChange(arm, old[arm], new[arm], moved[arm]) for arm in new if arm in old]
