"""What all arms share, made from a configuration: index, pipeline, written questions, models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from domainlm.artifacts import Log, Progress, RunDir, Silent, digest
from domainlm.config import Config
from domainlm.config.sections import StageConfig
from domainlm.config.training import TrainingConfig
from domainlm.corpus.chunking import chunk_document
from domainlm.evaluation.metrics import OBJECTIVES, retrieval_metrics
from domainlm.models.base import (
    ChatModel,
    Embedder,
    check_specs,
    load_chat_model,
    load_embedder,
)
from domainlm.rag.pipeline import Retrieval
from domainlm.rag.stages import Phase, Resources, asked_by, stage_settings
from domainlm.retrieval import Index, IndexDelta, build_index
from domainlm.schema import (
    Chunk,
    Document,
    Lessons,
    Question,
    QuestionSet,
    RagSpec,
    StageSpec,
    Trial,
)
from domainlm.training import question_writer
from domainlm.training.data import Synthesis, distinct, write_questions
from domainlm.training.facts import Fact, examples_of, facts_of, gaps
from domainlm.training.transfer import compare, most_asked, transfer, transferred_questions
from domainlm.training.writer import EPOCHS, write_about, writer_rows

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
    ("graph", (StageSpec("graph"),)),
)
"""Retrievers tried on the dev questions where the configuration names none."""


def check_names(config: Config) -> None:
    """Look up every model and stage that `config` names, before any work begins.

    Raises:
        ConfigError: a name or a setting of a stage is unknown.
        ModelError: the folder of a model does not exist.
    """
    check_specs(config.model, config.embedder)
    rag = config.rag
    phases: tuple[tuple[Phase, Sequence[StageConfig]], ...] = (
        ("pre", rag.pre),
        ("retrieve", rag.retrieve),
        ("post", (*rag.rerank, *rag.post)),
    )
    for phase, stages in phases:
        for stage in stages:
            stage_settings(phase, stage.spec())
    for stage in rag.retrieve:
        for leaf in asked_by(stage.spec()):
            stage_settings("retrieve", leaf)


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
        else [
            (n, RagSpec((), r, (), config.rag.passages, reader=config.rag.reader))
            for n, r in CANDIDATES
        ]
    )
    usable, resources = tuning_ground(config, index, documents, questions, embedder, progress)
    usable = usable[: max(config.evaluation.dev_questions, 40) * 5]
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
    target = next((m for m in OBJECTIVES if all(m in t.metrics for t in trials)), "")
    # Equal candidates keep their order, simplest first.
    return tuple(sorted(trials, key=lambda t: -t.metrics.get(target, 0.0)))


def tuning_ground(
    config: Config,
    index: Index,
    documents: Mapping[str, Document],
    questions: QuestionSet,
    embedder: Embedder,
    progress: Progress | None = None,
) -> tuple[list[Question], Resources]:
    """Questions on which pipelines are compared, and what their stages may use.

    With fewer than ten labelled dev questions the train questions stand in, each without what was
    learned from it; test is never looked at.
    """
    usable = [q for q in questions.dev if q.evidence or q.doc_ids]
    held_out = len(usable) >= 10
    if not held_out:
        usable = [q for q in questions.train if q.evidence or q.doc_ids]
    return usable, stage_resources(
        config,
        index,
        documents,
        questions,
        embedder,
        leave_one_out=not held_out,
        progress=progress,
    )


def stage_resources(
    config: Config,
    index: Index,
    documents: Mapping[str, Document],
    questions: QuestionSet,
    embedder: Embedder,
    *,
    leave_one_out: bool = False,
    progress: Progress | None = None,
) -> Resources:
    """What the stages of a pipeline may use; the base model is loaded at the first need."""
    return Resources(
        index,
        documents,
        embedder,
        lambda: load_model(config),
        examples=questions.train,
        leave_one_out=leave_one_out,
        allow_download=config.allow_download,
        model_name=config.model,
        progress=progress or Silent(),
    )


def synthesise(
    config: Config,
    index: Index,
    documents: dict[str, Document],
    questions: QuestionSet,
    embedder: Embedder,
    folder: RunDir,
    key: str,
    progress: Progress,
) -> Synthesis:
    """Have questions about train documents written, if any arm trains: by the writer about
    passages, and as `ask_about_facts` does. What is written is kept in `folder`, batch by batch.
    """
    wanted = config.training.synthesis
    made = Synthesis((), {})
    if not any(a not in ("base", "rag") for a in config.arms):
        return made
    train_documents = set(questions.train_doc_ids)
    held_out = (*questions.dev, *questions.test)
    drafts = folder.path / "drafts"
    if wanted.passages:
        adapter = question_writer.adapter_of(wanted.writer)
        made = write_questions(
            [c for c in index.chunks() if c.doc_id in train_documents],
            documents,
            questions.train,
            held_out,
            load_model(config, adapter),
            form=question_writer.form_of(adapter),
            passages=wanted.passages,
            per_passage=wanted.questions_per_passage,
            min_groundedness=wanted.min_groundedness,
            seed=config.seed,
            drafts=Log(drafts / f"{key}.jsonl", list[str]),
            progress=progress.update,
        )
    if wanted.facts:
        about = ask_about_facts(config, documents, questions, embedder, folder, key, progress)
        counts = Counter(made.counts) + Counter(about.counts)
        made = Synthesis((*made.questions, *about.questions), dict(counts))
    return made


def writer_digest(config: Config) -> str:
    """What identifies the adapter that writes about passages; "" where none does.

    Raises:
        ModelError: the configured folder holds no adapter.
    """
    wanted = config.training.synthesis
    trains = any(arm not in ("base", "rag") for arm in config.arms)
    if not wanted.passages or not trains:
        return ""
    return question_writer.digest_of(question_writer.adapter_of(wanted.writer))


def ask_about_facts(
    config: Config,
    documents: dict[str, Document],
    questions: QuestionSet,
    embedder: Embedder,
    folder: RunDir,
    key: str,
    progress: Progress,
) -> Synthesis:
    """Facts of train documents in several wordings: train questions asked again of other documents,
    what a tuned writer asks, and sentences with a gap.
    """
    wanted = config.training.synthesis
    held_out = (*questions.dev, *questions.test)
    train_documents = set(questions.train_doc_ids)
    facts = facts_of([d for d in documents.values() if d.id in train_documents])
    examples = examples_of(questions.train, documents)
    compared = compare(facts, examples, documents, embedder)
    found = transfer(compared)
    counts: Counter[str] = Counter({"asked again of other documents": len(found)})
    made = list(distinct(transferred_questions(found), held_out, questions.train, counts))
    # What people are known to ask comes first; where room is left, what is most like it.
    asked = dict.fromkeys(t.fact for t in found)
    chosen = list(dict.fromkeys((*asked, *most_asked(compared, wanted.facts))))[: wanted.facts]
    if wanted.questions_per_fact and examples:
        written = write_about(
            chosen,
            questions.train,
            held_out,
            fact_writer(config, examples, folder, progress),
            samples=wanted.questions_per_fact,
            seed=config.seed,
            drafts=Log(folder.path / "drafts" / f"{key}-facts.jsonl", list[str]),
            progress=progress.update,
        )
        made += written.questions
        counts.update(written.counts)
    counts["sentences with a gap"] = len(chosen)
    return Synthesis((*made, *gaps(chosen)), dict(sorted(counts.items())))


def fact_writer(
    config: Config,
    examples: Sequence[tuple[Question, Fact]],
    folder: RunDir,
    progress: Progress,
) -> ChatModel:
    """The base model, tuned to ask about facts as the train questions do; trained once.

    Raises:
        DataError: all rows are too long.
        ModelError: the base cannot be loaded, or a check of the training failed.
    """
    # The trainers import torch, which only this stage needs.
    from domainlm.training.plan import train_adapter

    rows = writer_rows(examples)
    adapter = train_adapter(
        "writer",
        Lessons(rows),
        base_checkpoint(config),
        folder.path / "adapters" / f"writer-{digest(rows, config.model, config.seed)}",
        TrainingConfig.model_validate({}),
        epochs=EPOCHS,
        seed=config.seed,
        progress=progress.update,
    )
    return load_model(config, Path(adapter.path))


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


def base_checkpoint(config: Config) -> Path | str:
    """Folder (or hub id) of the checkpoint that adapters are trained on."""
    if config.model == "embedded":
        from domainlm.models.embedded import ensure_checkpoint

        return ensure_checkpoint(allow_download=config.allow_download)
    from domainlm.models.local import find_checkpoint

    name = config.model.removeprefix("local:")
    return find_checkpoint(name, allow_download=config.allow_download)
