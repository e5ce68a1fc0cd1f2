"""The stages of the main path that take more than a line: index, pipeline, adapters, answers."""

from __future__ import annotations

import dataclasses
import gc
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import psutil

from domainlm.artifacts import Log, Progress, RunDir, digest
from domainlm.config import ArmName, Config
from domainlm.corpus.chunking import chunk_document
from domainlm.errors import ConfigError
from domainlm.evaluation import roi, summary
from domainlm.evaluation.cost import Machine, ModelPrice, PriceBook
from domainlm.evaluation.latency import percentile
from domainlm.evaluation.metrics import retrieval_metrics
from domainlm.models.base import ChatModel, Embedder, load_chat_model, load_embedder
from domainlm.rag.pipeline import Arm, Retrieval, closed_book, with_retrieval
from domainlm.rag.stages import Resources
from domainlm.retrieval import Index, IndexDelta, build_index
from domainlm.schema import (
    Adapter,
    Answer,
    ArmSummary,
    Chunk,
    Document,
    Question,
    QuestionSet,
    RagSpec,
    RoiCase,
    Sampling,
    StageSpec,
    TrainingRow,
    Trial,
)
from domainlm.training.data import Synthesis, closed_book_rows, raft_rows, write_questions

_ADAPTER_OF: dict[ArmName, str] = {"tuned": "tuned", "tuned+rag": "tuned", "raft": "raft"}
_BATCH = 32
_PROBES = 6
"""Questions asked one at a time for latency; the first is a warm-up and not counted."""

CANDIDATES: tuple[tuple[str, tuple[StageSpec, ...]], ...] = (
    ("full text", (StageSpec("bm25"),)),
    ("dense", (StageSpec("dense"),)),
    ("hybrid, RRF", (StageSpec("hybrid", {"method": "rrf"}),)),
    *(
        (f"hybrid, convex {w}", (StageSpec("hybrid", {"method": "convex", "weight": w}),))
        for w in (0.3, 0.5, 0.7)
    ),
    *(
        (f"learned from questions, {w}", (StageSpec("rocchio", {"weight": w}),))
        for w in (0.3, 0.5, 0.7)
    ),
)
"""Retrievers tried on the dev questions where the configuration names none."""


def open_index(
    folder: RunDir,
    key: str,
    config: Config,
    documents: Sequence[Document],
    embedder: Embedder,
    progress: Progress,
) -> tuple[Index, IndexDelta]:
    """Build or update the index of `documents`; an unchanged document costs nothing."""
    chunking = config.chunking

    def chunk(document: Document) -> list[Chunk]:
        return chunk_document(
            document,
            use=chunking.use,
            tokens=chunking.tokens,
            overlap=chunking.overlap,
            window=chunking.window,
            parent_tokens=chunking.parent_tokens,
            header=chunking.header,
        )

    built: list[Index] = []

    def make() -> IndexDelta:
        # One folder per embedder: vectors of two must never meet.
        index = build_index(
            folder.path / f"index-{digest(embedder.name)}",
            documents,
            chunk,
            embedder,
            settings=chunking,
            progress=progress.update,
        )
        built.append(index)
        return index.delta

    delta: IndexDelta = folder.stage("index", key, IndexDelta, make)
    if not built:
        # A build for other settings may have been killed half-way; unchanged, this costs nothing.
        make()
    return built[0], delta


def choose_pipeline(
    config: Config,
    index: Index,
    documents: Mapping[str, Document],
    questions: QuestionSet,
    embedder: Embedder,
    progress: Progress,
) -> tuple[Trial, ...]:
    """Retrievers ranked on dev by the evidence they put into the prompt, best first.

    A pipeline named in the configuration is the only candidate. With too few dev questions the
    train questions (leave-one-out) stand in; test is never looked at.
    """
    given = config.rag.spec()
    candidates = (
        [("as configured", given)]
        if given
        else [(n, RagSpec((), r, (), config.rag.passages)) for n, r in CANDIDATES]
    )
    usable = [q for q in questions.dev if q.evidence or q.doc_ids]
    held_out = len(usable) >= 10
    if not held_out:
        usable = [q for q in questions.train if q.evidence or q.doc_ids]
    usable = usable[: max(config.evaluation.dev_questions, 40) * 5]
    resources = Resources(
        index, documents, embedder, examples=questions.train, leave_one_out=not held_out
    )
    trials = []
    for n, (name, spec) in enumerate(candidates, 1):
        retrieval = Retrieval(spec, resources)
        retrieval.prepare(usable)
        scores: dict[str, list[float]] = {}
        for question in usable:
            for metric, value in retrieval_metrics(retrieval(question), question).items():
                scores.setdefault(metric, []).append(value)
        means = {metric: round(float(np.mean(v)), 6) for metric, v in sorted(scores.items())}
        trials.append(Trial(name, spec, len(usable), means))
        progress.update(n, len(candidates), name)
    target = next((m for m in _OBJECTIVES if all(m in t.metrics for t in trials)), "")
    # Equal candidates keep their order, simplest first.
    return tuple(sorted(trials, key=lambda t: -t.metrics.get(target, 0.0)))


_OBJECTIVES = ("evidence_recall", "doc_recall")


def synthesise(
    config: Config,
    index: Index,
    documents: dict[str, Document],
    questions: QuestionSet,
    progress: Progress,
) -> Synthesis:
    """Have the base model write questions about train documents, if any arm trains."""
    wanted = config.training.synthesis
    if not wanted.passages or not any(a in _ADAPTER_OF for a in config.arms):
        return Synthesis((), {})
    train_documents = set(questions.train_doc_ids)
    return write_questions(
        [c for c in index.chunks() if c.doc_id in train_documents],
        documents,
        questions.train,
        (*questions.dev, *questions.test),
        load_model(config),
        passages=wanted.passages,
        per_passage=wanted.questions_per_passage,
        min_groundedness=wanted.min_groundedness,
        seed=config.seed,
        progress=progress.update,
    )


def load_model(config: Config, adapter: Path | None = None) -> ChatModel:
    """The configured chat model, with an adapter if given."""
    return load_chat_model(
        config.model,
        adapter=adapter,
        allow_download=config.allow_download,
        api_base=config.api_base,
        api_key_env=config.api_key_env,
    )


def load_configured_embedder(config: Config) -> Embedder:
    """The configured embedder."""
    return load_embedder(
        config.embedder,
        allow_download=config.allow_download,
        api_base=config.api_base,
        api_key_env=config.api_key_env,
    )


def model_price(config: Config, prices: PriceBook) -> ModelPrice | None:
    """Token prices of a hosted model, if the configuration names one.

    Raises:
        ConfigError: the price book has no such model.
    """
    name = config.cost.model_price
    if name and name not in prices.models:
        raise ConfigError(
            f"cost.model_price {name!r} is not in the price book; it has "
            f"{', '.join(sorted(prices.models))}"
        )
    return prices.models[name] if name else None


def price_arms(
    config: Config,
    summaries: Sequence[ArmSummary],
    adapters: Sequence[Adapter],
    bench: Bench,
    prices: PriceBook,
    machine: Machine,
) -> list[RoiCase]:
    """Money of every arm, from its summary over all test questions."""
    return [
        roi.roi_case(
            s,
            bench.setup(s.arm, adapters),
            prices,
            machine,
            volumes=config.cost.questions_per_month,
            months=config.cost.months,
        )
        for s in summaries
        if s.task == summary.ALL and s.split == summary.TEST
    ]


class Bench:
    """Trains the adapters and lets every arm answer the same questions under one setting."""

    def __init__(
        self,
        config: Config,
        folder: RunDir,
        index: Index,
        documents: dict[str, Document],
        questions: QuestionSet,
        spec: RagSpec,
        embedder: Embedder,
        progress: Progress,
    ) -> None:
        self._config, self._folder, self._progress = config, folder, progress
        self._index, self._documents, self._questions = index, documents, questions
        self._spec = spec
        self._adapters: dict[str, Adapter] = {}
        self.row_counts: dict[str, int] = {}
        self._resources = Resources(index, documents, embedder, examples=questions.train)
        limits = config.evaluation
        self.asked: list[Question] = [
            *sample(questions.dev, limits.dev_questions),
            *sample(questions.test, limits.max_questions),
        ]

    def train(self, key: str, written: Synthesis) -> tuple[Adapter, ...]:
        """The adapters that the arms need, trained or loaded."""
        wanted = sorted({_ADAPTER_OF[a] for a in self._config.arms if a in _ADAPTER_OF})
        pool = (*self._questions.train, *written.questions)
        self._adapters = {name: self._adapter(name, key, pool) for name in wanted}
        return tuple(self._adapters.values())

    def _adapter(self, name: str, key: str, pool: Sequence[Question]) -> Adapter:
        config = self._config.training
        rows: tuple[TrainingRow, ...] = self._folder.stage(
            f"rows-{name}",
            key,
            tuple[TrainingRow, ...],
            lambda: tuple(self._rows(name, pool)),
        )
        counts = Counter(f"{name}: {r.kind}, {r.origin}" for r in rows)
        self.row_counts |= dict(sorted(counts.items()))
        base = _base_folder(self._config)
        epochs = config.raft_epochs if name == "raft" else config.tuned_epochs
        # Not the checkpoint's path: the cache may lie elsewhere on the next machine.
        adapter_key = digest(key, rows, self._config.model)
        place = f"adapters/{name}-{adapter_key}"

        def train() -> Adapter:
            # The trainers import torch, which only this stage needs.
            from domainlm.training.sft import train_sft

            made = train_sft(
                name,
                rows,
                base,
                self._folder.path / place,
                config,
                epochs=epochs,
                seed=self._config.seed,
                progress=lambda step, steps, loss: self._progress.update(
                    step, steps, f"loss {loss:.3f}"
                ),
            )
            # Relative to the run folder, which may be moved.
            return dataclasses.replace(made, path=f"{place}/adapter")

        adapter: Adapter = self._folder.stage(f"adapter-{name}", adapter_key, Adapter, train)
        return adapter

    def _rows(self, name: str, pool: Sequence[Question]) -> list[TrainingRow]:
        config = self._config
        if name == "tuned":
            return closed_book_rows(pool, config.training.tuned_rows, config.seed)
        resources = dataclasses.replace(self._resources, leave_one_out=True, cache={})
        return raft_rows(
            pool,
            Retrieval(self._spec, resources),
            self._documents,
            limit=config.training.raft_rows,
            absent_share=config.training.absent_share,
            seed=config.seed,
            progress=self._progress.update,
        )

    def answer(self, key: str) -> tuple[list[Answer], dict[str, tuple[float, ...]], dict[str, int]]:
        """Answers of all arms, single-question latencies and peak memory, by arm.

        Answers are appended to a log batch by batch, so a killed run keeps every finished batch.
        One model is loaded at a time.
        """
        answers: list[Answer] = []
        probes: dict[str, tuple[float, ...]] = {}
        memory: dict[str, int] = {}
        groups: dict[str, list[ArmName]] = {}
        for arm in self._config.arms:
            groups.setdefault(_ADAPTER_OF.get(arm, ""), []).append(arm)
        for adapter, arms in groups.items():
            models: list[ChatModel] = []
            for arm in arms:
                made, probe, peak = self._arm_answers(arm, adapter, key, models)
                answers += made
                probes[arm], memory[arm] = probe, peak
            models.clear()
            gc.collect()
        order = {arm: n for n, arm in enumerate(self._config.arms)}
        place = {q.id: n for n, q in enumerate(self.asked)}
        answers.sort(key=lambda a: (order[a.arm], place[a.question_id]))  # type: ignore[index]
        return answers, probes, memory

    def _arm_answers(
        self, name: ArmName, adapter: str, key: str, models: list[ChatModel]
    ) -> tuple[list[Answer], tuple[float, ...], int]:
        asked_key = digest(key, name, [q.id for q in self.asked])
        log = Log(self._folder.path / "answers" / f"{name}-{asked_key}.jsonl", Answer)
        # What failed (a server was down) is asked again.
        done = {a.question_id: a for a in log.read() if not a.failed}
        peak = 0

        def arm() -> Arm:
            if not models:
                models.append(load_model(self._config, self._adapter_path(adapter)))
            return self._arm(name, models[0])

        def complete() -> int:
            nonlocal peak
            left = [q for q in self.asked if q.id not in done]
            for start in range(0, len(left), _BATCH):
                batch = arm().answer(left[start : start + _BATCH])
                log.append(list(batch))
                done.update((a.question_id, a) for a in batch)
                peak = max(peak, psutil.Process().memory_info().rss)
                self._progress.update(len(done), len(self.asked))
            return peak

        peak = self._folder.stage(f"answers-{name}", asked_key, int, complete)
        probe: tuple[float, ...] = self._folder.stage(
            f"latency-{name}",
            asked_key,
            tuple[float, ...],
            lambda: tuple(_probe(arm(), self.asked, self._progress)),
        )
        return [done[q.id] for q in self.asked if q.id in done], probe, peak

    def _adapter_path(self, name: str) -> Path | None:
        return self._folder.path / self._adapters[name].path if name else None

    def _arm(self, name: ArmName, model: ChatModel) -> Arm:
        decoding = self._config.decoding
        sampling = Sampling(decoding.max_tokens, decoding.temperature, decoding.seed)
        if name in ("base", "tuned"):
            return closed_book(name, model, sampling)
        retrieval = Retrieval(self._spec, self._resources)
        retrieval.prepare(self.asked)
        return with_retrieval(name, model, sampling, retrieval)

    def ask(self, name: str, question: Question) -> Answer:
        """Answer one question with a trained arm."""
        adapter = _ADAPTER_OF.get(name, "")  # type: ignore[call-overload]
        model = load_model(self._config, self._adapter_path(adapter))
        return self._arm(name, model).answer([question])[0]  # type: ignore[arg-type]

    def setup(self, arm: str, adapters: Sequence[Adapter]) -> roi.Setup:
        """Measured one-time machine time of an arm: index, question writing, training."""
        retrieves = arm not in ("base", "tuned")
        trained = [a for a in adapters if a.name == _ADAPTER_OF.get(arm)]  # type: ignore[call-overload]
        return roi.Setup(
            index_s=self._folder.seconds("index") if retrieves else 0.0,
            training_s=sum(a.seconds for a in trained),
            synthesis_s=self._folder.seconds("synthesis") if trained else 0.0,
        )


def _base_folder(config: Config) -> Path | str:
    if config.model == "embedded":
        from domainlm.models.embedded import ensure_checkpoint

        return ensure_checkpoint(allow_download=config.allow_download)
    from domainlm.models.local import find_checkpoint

    name = config.model.removeprefix("local:")
    return find_checkpoint(name, allow_download=config.allow_download)


def _probe(arm: Arm, asked: Sequence[Question], progress: Progress) -> list[float]:
    """Seconds of single questions, asked one at a time after a warm-up."""
    chosen = sample(asked, _PROBES)
    seconds = []
    for n, question in enumerate(chosen, 1):
        seconds.append(arm.answer([question])[0].latency_s)
        progress.update(n, len(chosen))
    return seconds[1:]


def sample(questions: Sequence[Question], limit: int) -> list[Question]:
    """At most `limit` questions, spread over splits and tasks, drawn by hash so that adding
    questions does not reshuffle the rest; their order is kept.
    """
    if not limit or len(questions) <= limit:
        return list(questions)
    strata: dict[tuple[str, str], list[Question]] = {}
    for question in sorted(questions, key=lambda q: hashlib.sha256(q.id.encode()).digest()):
        strata.setdefault((question.split, question.task), []).append(question)
    chosen: set[str] = set()
    share = limit / len(questions)
    for group in strata.values():
        chosen.update(q.id for q in group[: max(1, int(len(group) * share))])
    rest = [q.id for group in strata.values() for q in group if q.id not in chosen]
    chosen.update(rest[: max(0, limit - len(chosen))])
    return [q for q in questions if q.id in chosen]


def with_latency(
    summaries: Sequence[ArmSummary], probes: Mapping[str, Sequence[float]]
) -> list[ArmSummary]:
    """Replace the batch shares by the latencies of single questions, where they were probed."""
    return [
        dataclasses.replace(
            s,
            latency_p50_s=percentile(probes[s.arm], 0.5).value,
            latency_p95_s=percentile(probes[s.arm], 0.95).value,
        )
        if probes.get(s.arm)
        else s
        for s in summaries
    ]


def worth(config: Config, summaries: Sequence[ArmSummary]) -> dict[str, float] | None:
    """Dollars of value per question by arm, if the configuration prices outcomes."""
    c = config.cost
    if c.value_correct_usd is None:
        return None
    value = roi.Value(c.value_correct_usd, c.cost_wrong_usd or 0.0, c.cost_abstained_usd or 0.0)
    return {
        s.arm: roi.value_per_question(s.outcomes, value)
        for s in summaries
        if s.task == summary.ALL and s.split == summary.TEST
    }
