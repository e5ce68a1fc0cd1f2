"""What people said of a domain's answers: into its log, and out of it as training rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from domainlm import contenders
from domainlm.artifacts import Progress, RunDir, Silent
from domainlm.config import Config
from domainlm.errors import ConfigError
from domainlm.experiment import load_result
from domainlm.feedback.events import show
from domainlm.feedback.exchange import import_log, is_export
from domainlm.feedback.grounding import checkable, judge_groundedness, judged
from domainlm.feedback.lessons import learned
from domainlm.feedback.log import EventLog
from domainlm.feedback.plain import read_plain
from domainlm.feedback.quarantine import repeats
from domainlm.feedback.rows import FeedbackRows
from domainlm.ground import corpus_key, read_corpus, split_corpus
from domainlm.registry import registry_of
from domainlm.schema import Question, QuestionSet
from domainlm.training.data import Synthesis


def question_set(
    config: Config, progress: Progress | None = None
) -> tuple[QuestionSet, tuple[Question, ...]]:
    """The split questions, and those that a finished run has written about train documents;
    without a model.

    Raises:
        DataError: documents or questions cannot be used.
    """
    progress = progress or Silent()
    with RunDir(config.folder, progress.stage) as folder:
        key = corpus_key(config)
        documents, _ = read_corpus(config, folder, key, progress)
        split = split_corpus(config, folder, key, documents)[0]
        written: Synthesis | None = folder.newest("synthesis", Synthesis)
    # They may be of an earlier split.
    train = set(split.train_doc_ids)
    made = written.questions if written else ()
    return split, tuple(q for q in made if train.issuperset(q.doc_ids))


def import_feedback(
    config: Config, path: Path, progress: Progress | None = None
) -> tuple[int, int]:
    """Add an export of another log, or a file of plain records, to the domain's log.

    Returns:
        Events added, events that were already there.

    Raises:
        DataError: the file cannot be trusted or read; nothing is written.
    """
    if is_export(path):
        with EventLog(config.feedback_log) as log:
            return import_log(log, path)
    split, written = question_set(config, progress)
    known = {q.id: q for q in (*written, *split.train, *split.dev, *split.test)}
    records = {event.id: (event, texts) for event, texts in read_plain(path, known)}
    asked = [e.question for e, _ in records.values() if e.question_id not in known]
    repeated = repeats(asked, split)
    with EventLog(config.feedback_log) as log:
        new = [record for event_id, record in records.items() if event_id not in log]
        log.append(
            [
                event
                if event.question_id in known or event.question in repeated
                else dataclasses.replace(event, split="train")
                for event, _ in new
            ],
            {sha: t for _, texts in new for sha, t in texts.items()},
        )
    return len(new), len(records) - len(new)


def judge_answers(
    config: Config, model: str, arms: Sequence[str], limit: int, progress: Progress | None = None
) -> tuple[int, int]:
    """Let `model` (the configured one if empty) judge the groundedness of a finished run's answers
    that it has not judged before, and keep what it says answer by answer.

    Returns:
        Judgements kept, replies that could not be read.

    Raises:
        DataError: there is no finished run.
        ConfigError: the run has no such arm.
        ModelError: the model cannot be used.
    """
    progress = progress or Silent()
    result = load_result(config.folder)
    ran = dict.fromkeys(a.arm for a in result.answers)
    if unknown := [a for a in arms if a not in ran]:
        raise ConfigError(f"arm {unknown[0]!r} was not run; arms are {', '.join(ran)}")
    judge = contenders.load_model(config.model_copy(update={"model": model}) if model else config)
    questions = {q.id: q for q in result.questions}
    progress.stage("judge", False)
    kept = unread = 0
    with EventLog(config.feedback_log) as log:
        done = judged(log.current(), judge.name)
        wanted = [
            a
            for a in result.answers
            if (not arms or a.arm in arms) and checkable(a) and show(a)[0].answer_id not in done
        ][:limit]
        for n, answer in enumerate(wanted, 1):
            events, texts, missed = judge_groundedness(judge, [answer], questions)
            if events:
                log.append(events, texts)
            kept, unread = kept + len(events), unread + missed
            progress.update(n, len(wanted))
    return kept, unread


def training_feedback(
    config: Config, trust: float | None = None, progress: Progress | None = None
) -> FeedbackRows:
    """What people and trusted judges said, as training rows; `trust` as in `judges.reports_of`.

    Raises:
        DataError: there is no feedback, or documents or questions cannot be used.
    """
    with EventLog(config.feedback_log, create=False):
        split, written = question_set(config, progress)
    excluded = registry_of(config).exclusions()
    return learned(config.feedback_log, split, written, trust=trust, excluded=excluded)
