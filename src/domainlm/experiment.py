"""The main path: documents and questions in, five arms measured, one result out.

`run` reads top to bottom. Each stage is a function of its inputs' digests and lands in the run
folder before the next begins: a killed run resumes where it stopped, a second run repeats nothing.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from domainlm import (
    __version__,
    contenders,
    controls,
    diagnose,
    doubts,
    fetching,
    history,
    pricing,
    provenance,
    repeats,
    timing,
)
from domainlm.artifacts import (
    Progress,
    RunDir,
    Silent,
    digest,
    dump_json,
    load_json,
    write_atomic,
    writing,
)
from domainlm.bench import ADAPTER_OF, Bench
from domainlm.config import Config
from domainlm.errors import ConfigError, DataError
from domainlm.evaluation import summary
from domainlm.evaluation.groundedness import head_digest, score_grounded
from domainlm.evaluation.tasks import score_answers
from domainlm.feedback import asked
from domainlm.ground import Ground, indexed, prepare
from domainlm.registry import registry_of
from domainlm.schema import (
    Adapter,
    Answer,
    DataCard,
    Question,
    RagSpec,
    RunResult,
    Score,
    Setup,
    Waterfall,
)
from domainlm.training.data import Synthesis

RESULT = "result.json"


def run(config: Config, progress: Progress | None = None) -> RunResult:
    """Do the main job of `config` and write `result.json` in its folder; resumes by default.

    Raises:
        DataError: documents or questions cannot be used, or the folder cannot be written.
        ModelError: a model cannot be loaded or reached.
        ConfigError: a stage or a price is unknown.
    """
    progress = progress or Silent()
    prices = pricing.check(config)
    with RunDir(config.folder, progress.stage) as folder:
        ground = prepare(config, folder, progress)
        bench, written, training_key = workbench(config, folder, ground, progress)
        adapters = bench.train(training_key, written)
        answer_key = digest(
            ground.pipeline_key,
            config.model,
            config.api_base,
            adapters,
            # What is shown and what is withheld is decided afterwards.
            config.decoding.model_dump(mode="json", exclude={"fetch_price"}) | {"keep": None},
        )
        said, memory = bench.answer(answer_key)
        shown, policies = fetching.stage(config, folder, bench, said, answer_key)
        answers, withholding = doubts.stage(
            config, folder, shown, ground.questions, ground.scorer, answer_key
        )
        wait_key = digest(answer_key, bench.fetching) if bench.fetching else answer_key
        waits = timing.measure(bench, config, folder, wait_key, progress)

        score_key = digest(
            [(a.arm, a.question_id, a.text, a.failed, a.passages) for a in answers],
            ground.split_key,
            ground.scorer.name,
            __version__,
        )
        scores: tuple[Score, ...] = folder.stage(
            "scores",
            # A scorer trained anew scores anew, but is no new look at the test questions; scores of
            # an older shape do not know their classes.
            digest(score_key, head_digest(), [f.name for f in dataclasses.fields(Score)]),
            tuple[Score, ...],
            lambda: tuple(score_grounded(answers, bench.asked, ground.scorer)),
        )
        waterfalls: tuple[Waterfall, ...] = folder.stage(
            "diagnose",
            digest(score_key, ground.pipeline_key),
            tuple[Waterfall, ...],
            lambda: follow(
                config, ground, ground.trials[0].spec, bench.asked, answers, scores, progress
            ),
        )
        touches = provenance.touch_test(config.output, ground.questions.test, score_key)
        # Diagnostic arms and other seeds show all and withhold nothing, so what they are compared
        # with must do likewise.
        plain = score_answers(said, bench.asked)
        checks = controls.stage(
            config, folder, bench, ground.by_id, ground.questions.train, said, plain, answer_key
        )
        seeds = repeats.stage(
            config, folder, bench, written, adapters, plain, training_key, answer_key
        )

        dev = [s for s in scores if s.split == "dev"]
        test = [s for s in scores if s.split != "dev"]
        spent = pricing.answer_costs(config, prices, answers)
        summaries = pricing.with_latency(
            summary.summarise(test, answers, spent, peak_memory=memory), waits
        )
        contrasts = summary.contrasts(test, margin=config.evaluation.margin, dev=dev)
        setups: dict[str, Setup] = {arm: bench.setup(arm, adapters) for arm in config.arms}
        now = dt.datetime.now(dt.UTC)
        churn = pricing.churn_of(ground.documents, now.date())
        settled = pricing.settle(
            config,
            prices,
            summaries,
            contrasts,
            answers,
            scores,
            setups,
            churn,
            now.date(),
            [
                *(warning for a in adapters for warning in a.warnings),
                *doubts.warnings(config, withholding),
                *fetching.sentences(config, policies),
            ],
            waits,
            checks,
        )
        result = RunResult(
            name=config.name,
            created_at=now.isoformat(timespec="seconds"),
            config=config.model_dump(mode="json"),
            provenance=provenance.collect(
                config, ground.embedder.name, ground.corpus_key, ground.split_key, prices, adapters
            )
            | {"groundedness": head_digest()},
            data=card(ground, written, bench),
            trials=ground.trials,
            rag=ground.trials[0].spec,
            adapters=adapters,
            summaries=tuple(summaries),
            contrasts=tuple(contrasts),
            roi=settled.cases,
            break_evens=settled.break_evens,
            verdict=settled.verdict,
            questions=tuple(bench.asked),
            answers=tuple(answers),
            scores=scores,
            times=folder.times(),
            test_touches=touches,
            waterfalls=waterfalls,
            setups=setups,
            churn=churn,
            money=settled.money,
            standings=settled.standings,
            controls=checks,
            seeds=seeds,
            latency=waits,
            doubts=withholding,
            fetching=policies,
        )
        write_atomic(config.folder / RESULT, dump_json(RunResult, result))
        paid = {(a.arm, a.question_id): c for a, c in zip(answers, spent, strict=True)}
        history.join(config.output, history.snapshot(result, paid))
        return result


def tune(
    config: Config, folder: RunDir, ground: Ground, progress: Progress
) -> tuple[Bench, Synthesis, tuple[Adapter, ...]]:
    """Write questions and train the adapters that the arms need."""
    bench, written, key = workbench(config, folder, ground, progress)
    return bench, written, bench.train(key, written)


def workbench(
    config: Config, folder: RunDir, ground: Ground, progress: Progress
) -> tuple[Bench, Synthesis, str]:
    """The bench, written questions, and the digest of what training depends on."""
    trains = any(arm not in ("base", "rag") for arm in config.arms)
    key = digest(
        ground.pipeline_key,
        config.model,
        # What writes counts, not where it lies.
        config.training.synthesis.model_dump(mode="json", exclude={"writer"}),
        contenders.writer_digest(config),
        config.seed,
        trains,
    )
    written: Synthesis = folder.stage(
        "synthesis",
        key,
        Synthesis,
        lambda: contenders.synthesise(
            config,
            ground.index,
            ground.by_id,
            ground.questions,
            ground.embedder,
            folder,
            key,
            progress,
        ),
    )
    bench = Bench(
        config,
        folder,
        ground.index,
        ground.by_id,
        ground.questions,
        ground.trials[0].spec,
        ground.embedder,
        progress,
    )
    # More training runs leave the first one as it is.
    settings = config.training.model_dump(
        mode="json", exclude={"seeds": True, "synthesis": {"writer"}}
    )
    return bench, written, digest(key, settings)


def follow(
    config: Config,
    ground: Ground,
    spec: RagSpec,
    questions: Sequence[Question],
    answers: Sequence[Answer],
    scores: Sequence[Score],
    progress: Progress,
) -> tuple[Waterfall, ...]:
    """Where every arm that reads passages lost its answers."""
    resources = contenders.stage_resources(
        config, ground.index, ground.by_id, ground.questions, ground.embedder
    )
    return diagnose.waterfalls(questions, answers, scores, spec, resources, progress)


def ingest(config: Config, progress: Progress | None = None) -> dict[str, Any]:
    """Read, chunk and index the documents; counts and what was set aside.

    Raises:
        DataError: the documents folder is missing or holds nothing readable.
    """
    progress = progress or Silent()
    with RunDir(config.folder, progress.stage) as folder:
        documents, quarantined, index, delta = indexed(config, folder, progress)
    return {
        "documents": len(documents),
        "chunks": len(index),
        "added": delta.added,
        "deleted": delta.deleted,
        "kept": delta.kept,
        "quarantined": [
            {"source": q.source, "reason": q.reason, "detail": q.detail} for q in quarantined
        ],
    }


def train(config: Config, progress: Progress | None = None) -> tuple[Adapter, ...]:
    """Train the adapters that the arms need, without the benchmark.

    Raises:
        DataError: documents or questions cannot be used, or there is nothing to train on.
    """
    progress = progress or Silent()
    with RunDir(config.folder, progress.stage) as folder:
        return tune(config, folder, prepare(config, folder, progress), progress)[2]


def ask_one(config: Config, text: str, arm: str, progress: Progress | None = None) -> Answer:
    """Answer one question with `arm`; without one, with what the last verdict ships, else `rag`
    or the first arm there is.
    The answer is recorded beside the event log, so that feedback may be about it.

    Raises:
        DataError: the question is empty.
        ConfigError: the arm is not among the configured ones.
    """
    progress = progress or Silent()
    if not text.strip():
        raise DataError("the question is empty; ask something, e.g. domainlm ask FILE 'Who …?'")
    decoding = config.decoding
    needed = not arm or decoding.keep is not None or decoding.fetch_price is not None
    ran = needed and (config.folder / RESULT).exists()
    finished = load_result(config.folder) if ran else None
    if not arm:
        shipped = finished.verdict.ship if finished else "rag"
        usual = "rag" if "rag" in config.arms else config.arms[0]
        arm = shipped if shipped in config.arms else usual
    if arm not in config.arms:
        raise ConfigError(f"arm {arm!r} is not configured; arms are {', '.join(config.arms)}")
    config = config.model_copy(update={"arms": (arm,)}) if arm in ("base", "rag") else config
    with RunDir(config.folder, progress.stage) as folder:
        ground = prepare(config, folder, progress)
        bench, written, _ = tune(config, folder, ground, progress)
        registry = registry_of(config)
        if finished:
            bench.fetching = fetching.learned(config, finished)
        # What the gate promoted since the run answers in its place.
        if registry.champion() is not None:
            champion = registry.model("champion")
            if ADAPTER_OF.get(arm) == ADAPTER_OF.get(champion.arm):  # type: ignore[call-overload]
                bench.serve(ADAPTER_OF[arm], registry.verify(champion.id), champion.base_model)
                # What is worth showing was learned for other weights.
                bench.fetching = {}
        question = Question("ask", text)
        answer = bench.ask(arm, question)
        if decoding.keep is not None and finished:
            learned = doubts.learned(config, finished)
            answer = doubts.apply(
                folder, [answer], [question], learned, ground.questions, ground.scorer
            )[0]
        question = asked.placed(text, ground.questions, written.questions)
        return asked.keep(config.asked_log, question, answer).answer


def set_aside(config: Config) -> None:
    """Move a run's folder out of the way, so that the next run starts afresh; nothing is lost."""
    if config.folder.exists():
        stamp = dt.datetime.now().strftime("%Y%m%d-%H%M%S-%f")
        # The lock refuses while another process works there.
        with RunDir(config.folder), writing(config.folder):
            config.folder.rename(config.folder.with_name(f"{config.name}.{stamp}"))


def card(ground: Ground, written: Synthesis, bench: Bench) -> DataCard:
    """What went in, for the report."""
    splits = {
        name: dict(sorted(Counter(q.task for q in getattr(ground.questions, name)).items()))
        for name in ("train", "dev", "test_known", "test_new")
    }
    return DataCard(
        documents=len(ground.documents),
        characters=sum(len(d.text) for d in ground.documents),
        chunks=len(ground.index),
        media_types=dict(sorted(Counter(d.media_type for d in ground.documents).items())),
        quarantined=ground.quarantined,
        questions=splits,
        dropped=ground.questions.dropped,
        training_rows=bench.row_counts,
        synthesis=written.counts,
    )


def load_result(folder: Path) -> RunResult:
    """Read a finished run.

    Raises:
        DataError: the folder holds no finished run.
    """
    result: RunResult = load_json(RunResult, folder / RESULT)
    return result
