"""What else a person does with a domain: its graph, a search, lost answers, prices, feedback."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Sequence
from pathlib import Path

from domainlm import contenders, ladder, optimize, pricing
from domainlm.artifacts import Progress, RunDir, Silent, dump_json, write_atomic
from domainlm.config import Config
from domainlm.diagnose import of_arm, without
from domainlm.errors import ConfigError, DataError
from domainlm.evaluation import cost
from domainlm.experiment import (
    corpus_key,
    follow,
    indexed,
    load_result,
    prepare,
    read_corpus,
    split_corpus,
    tune,
)
from domainlm.feedback.events import show
from domainlm.feedback.exchange import import_log, is_export
from domainlm.feedback.grounding import checkable, judge_groundedness, judged
from domainlm.feedback.lessons import learned
from domainlm.feedback.log import EventLog
from domainlm.feedback.plain import read_plain
from domainlm.feedback.quarantine import repeats
from domainlm.feedback.rows import FeedbackRows
from domainlm.graph.asking import Allowance, Report
from domainlm.graph.store import Graph
from domainlm.rag.graph import open_graph
from domainlm.rag.rerank import TokenEmbedder
from domainlm.registry import registry_of
from domainlm.schema import (
    Answer,
    Question,
    QuestionSet,
    RunResult,
    Waterfall,
)
from domainlm.training.data import Synthesis

SEARCH = "search.json"


def graph(config: Config, progress: Progress | None = None) -> Graph:
    """The knowledge graph of the documents, brought up to date without a model call.

    Raises:
        DataError: the documents folder is missing or holds nothing readable.
    """
    progress = progress or Silent()
    with RunDir(config.folder, progress.stage) as folder:
        _, _, index, _ = indexed(config, folder, progress)
        progress.stage("graph", False)
        return open_graph(index)


def quotes(
    config: Config, max_calls: int, token_cap: int, progress: Progress | None = None
) -> list[ladder.Quote]:
    """What each rung of the graph would still take below a cap; nothing is asked.

    Raises:
        DataError: the documents folder is missing or holds nothing readable.
        ConfigError: a price is unknown.
    """
    progress = progress or Silent()
    with RunDir(config.folder, progress.stage) as folder:
        _, _, index, _ = indexed(config, folder, progress)
        progress.stage("graph", False)
        opened = open_graph(index)
        return ladder.quotes(config, index, opened, Allowance(max_calls, token_cap))


def climb(
    config: Config,
    rung: ladder.Rung,
    max_calls: int,
    token_cap: int,
    progress: Progress | None = None,
) -> Report:
    """Climb a rung of the graph below a cap; goes on where it was cut off.

    Raises:
        DataError: the documents folder is missing or holds nothing readable.
        ModelError: the model cannot be loaded.
    """
    progress = progress or Silent()
    with RunDir(config.folder, progress.stage) as folder:
        _, _, index, _ = indexed(config, folder, progress)
        opened, model = open_graph(index), contenders.load_model(config)
        progress.stage(rung, False)
        return ladder.climb(rung, index, opened, model, Allowance(max_calls, token_cap), progress)


def search(
    config: Config, *, trials: int = 0, minutes: float = 0.0, progress: Progress | None = None
) -> optimize.Search:
    """Search whole pipelines on the dev questions and keep the outcome as `search.json`.

    Pipelines that ask the model to write queries or to read chunks are tried with `budget: full`
    only.

    Raises:
        DataError: documents or questions cannot be used, or no question is labelled.
    """
    progress = progress or Silent()
    prices = cost.load_prices(config.cost.prices)
    machine = pricing.machine(config, prices)
    hosted = pricing.model_price(config, prices)
    with RunDir(config.folder, progress.stage) as folder:
        documents, _, index, _ = indexed(config, folder, progress)
        questions, _ = split_corpus(config, folder, corpus_key(config), documents)
        by_id = {d.id: d for d in documents}
        asked, resources = contenders.tuning_ground(
            config, index, by_id, questions, index.embedder, progress
        )
        progress.stage("search", False)
        found = optimize.search(
            optimize.space(
                config.rag.passages,
                asking=config.budget == "full",
                token_vectors=isinstance(index.embedder, TokenEmbedder),
                limit=trials,
            ),
            asked,
            resources,
            optimize.Prices(
                usd_per_second=0.0 if hosted else cost.machine_cost(1.0, prices, machine),
                seconds_per_token=0.0 if hosted else optimize.SECONDS_PER_TOKEN,
                usd_per_token=cost.token_cost(1_000_000, 0, hosted) / 1e6 if hosted else 0.0,
                usd_per_token_out=cost.token_cost(0, 1_000_000, hosted) / 1e6 if hosted else 0.0,
            ),
            minutes=minutes,
            progress=progress,
        )
        write_atomic(config.folder / SEARCH, dump_json(optimize.Search, found))
        return found


def diagnose(config: Config, arm: str = "", progress: Progress | None = None) -> Waterfall:
    """Where a finished run's arm (default: the shipped one, else `rag`) lost its answers.

    Raises:
        DataError: there is no finished run.
        ConfigError: the arm answers without passages.
    """
    progress = progress or Silent()
    result = load_result(config.folder)
    found = result.waterfalls
    if not found:
        with RunDir(config.folder, progress.stage) as folder:
            ground = prepare(config, folder, progress)
            progress.stage("diagnose", False)
            found = follow(
                config,
                ground,
                result.rag,
                result.questions,
                result.answers,
                result.scores,
                progress,
            )
    return of_arm(found, arm or _reading_arm(result))


def replay(
    config: Config, question_id: str, arm: str, stage: str, progress: Progress | None = None
) -> tuple[Question, Answer, Answer]:
    """A finished run's question, its answer, and a new one with a stage switched off.

    Raises:
        DataError: the run has no such question or answer.
        ConfigError: the pipeline has no such stage, or the arm no pipeline.
    """
    progress = progress or Silent()
    result = load_result(config.folder)
    arm = arm or _reading_arm(result)
    if arm in ("base", "tuned"):
        raise ConfigError(f"arm {arm!r} answers without a pipeline; choose one that retrieves")
    question = next((q for q in result.questions if q.id == question_id), None)
    before = next(
        (a for a in result.answers if a.question_id == question_id and a.arm == arm), None
    )
    if question is None or before is None:
        raise DataError(
            f"this run has no answer of {arm!r} to {question_id!r}; the report lists questions"
        )
    spec = without(result.rag, stage)
    with RunDir(config.folder, progress.stage) as folder:
        bench, _, _ = tune(config, folder, prepare(config, folder, progress), progress)
        return question, before, bench.ask(arm, question, spec)


def roi(config: Config) -> RunResult:
    """A finished run under the prices and assumptions of `config`; nothing is run or written.

    Raises:
        DataError: there is no finished run, or it did not record what its arms took.
        ConfigError: a price or its name is wrong.
    """
    return pricing.reprice(config, load_result(config.folder), dt.datetime.now(dt.UTC).date())


def _reading_arm(result: RunResult) -> str:
    """The shipped arm if it retrieves, else `rag`."""
    retrieves = {a.arm for a in result.answers if a.passages}
    return result.verdict.ship if result.verdict.ship in retrieves else "rag"


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
    judge = contenders.load_model(
        config.model_copy(update={"model": model}) if model else config, None
    )
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
