"""What else a person does with a domain: a search, lost answers, other prices."""

from __future__ import annotations

import dataclasses
import datetime as dt

from domainlm import contenders, fetching, history, optimize, pricing
from domainlm.artifacts import Progress, RunDir, Silent, dump_json, write_atomic
from domainlm.config import Config
from domainlm.diagnose import of_arm, without
from domainlm.errors import ConfigError, DataError
from domainlm.evaluation import cost
from domainlm.experiment import follow, load_result, tune
from domainlm.finished.rescore import Rescored, rescore
from domainlm.finished.runs import Run, snapshot_of
from domainlm.ground import corpus_key, indexed, prepare, split_corpus
from domainlm.rag.rerank import TokenEmbedder
from domainlm.schema import (
    Answer,
    Question,
    RunResult,
    Waterfall,
)

SEARCH = "search.json"


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
        bench.fetching = fetching.learned(config, result)
        return question, before, bench.ask(arm, question, spec)


def roi(config: Config) -> RunResult:
    """A finished run under the prices and assumptions of `config`; nothing is run or written.

    Raises:
        DataError: there is no finished run, or it did not record what its arms took.
        ConfigError: a price or its name is wrong.
    """
    return pricing.reprice(config, load_result(config.folder), dt.datetime.now(dt.UTC).date())


def score(run: Run, *, write: bool = True) -> Rescored:
    """A finished run's answers scored again; the new result takes the place of the old one, which
    is kept beside it, and joins the history.

    Raises:
        DataError: the questions cannot be used, or the folder cannot be written.
        ConfigError: a price or its name is wrong.
    """
    now = dt.datetime.now(dt.UTC)
    found = rescore(run.config, run.result, now, count=write)
    if write:
        with RunDir(run.path.parent):
            stamp = dt.datetime.fromisoformat(run.result.created_at).strftime("%Y%m%d-%H%M%S")
            kept = run.path.with_name(f"{run.path.stem}.{stamp}.json")
            write_atomic(kept, dump_json(RunResult, run.result))
            write_atomic(run.path, dump_json(RunResult, found.result))
        scored = dataclasses.replace(run, result=found.result)
        history.join(run.config.output, snapshot_of(scored, "score"))
    return found


def _reading_arm(result: RunResult) -> str:
    """The shipped arm if it retrieves, else `rag`."""
    retrieves = {a.arm for a in result.answers if a.passages}
    return result.verdict.ship if result.verdict.ship in retrieves else "rag"
