"""The embedder of a run, tuned on its train questions and kept only if dev questions gain."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from domainlm.artifacts import Progress, RunDir, digest
from domainlm.config import Config
from domainlm.contenders import open_index, tuning_ground
from domainlm.errors import ConfigError
from domainlm.evaluation.metrics import retrieval_metrics
from domainlm.models.base import Embedder, load_embedder
from domainlm.rag.pipeline import Retrieval
from domainlm.retrieval import Index
from domainlm.schema import Document, QuestionSet, RagSpec, StageSpec, TunedEmbedder
from domainlm.training.pairs import retriever_pairs

METRICS = ("evidence_ndcg@10", "doc_ndcg@10")
"""What decides on dev: the first that all of its questions have."""
_LEAST = 8
"""Labelled train questions below which there is nothing to learn from."""


def tuned_retrieval(
    config: Config,
    folder: RunDir,
    key: str,
    index: Index,
    documents: tuple[Document, ...],
    questions: QuestionSet,
    embedder: Embedder,
    progress: Progress,
) -> tuple[Embedder, Index, TunedEmbedder]:
    """Embedder and index to go on with, and what tuning found.

    The embedder is tuned on train questions, the documents are embedded anew into an index of its
    own (the next time only what changed), and dense search with either embedder answers the dev
    questions. The tuned one stays where its mean is higher; else the old index goes on.

    Args:
        config: `training.retriever` has epochs.
        folder: of the run.
        key: digest of documents, split and the index given.
        index: of the untuned embedder.
        documents: all of the corpus.
        questions: train questions teach, dev questions decide.
        embedder: the untuned one.
        progress: told of steps.

    Raises:
        ConfigError: the embedder is no folder on this machine.
        ModelError: it cannot be loaded or trained.
    """
    settings = config.training.retriever
    by_id = {d.id: d for d in documents}
    stage_key = digest(key, settings, config.seed)
    place = Path("embedders") / stage_key

    def load(tuned: TunedEmbedder) -> tuple[Embedder, Index]:
        made = load_embedder(f"local:{folder.path / tuned.path}")
        # Two tuned embedders must never share an index.
        made.name = f"{embedder.name}+{tuned.digest[:8]}"
        index_key = digest(key, made.name)
        own, _ = open_index(folder, index_key, config, documents, made, progress)
        return made, own

    def make() -> TunedEmbedder:
        pairs = retriever_pairs(questions.train, index, by_id, negatives=settings.negatives)
        if len({pair.question_id for pair in pairs}) < _LEAST:
            return TunedEmbedder("", "", len(pairs))
        # Torch is needed from here on.
        from domainlm.training.retriever import train_embedder

        trained = train_embedder(
            pairs,
            encoder_folder(config),
            folder.path / place,
            settings,
            seed=config.seed,
            progress=lambda done, steps, loss: progress.update(
                done, steps, f"loss {loss:.3f}", loss
            ),
        )
        trained = replace(trained, path=(place / Path(trained.path).name).as_posix())
        other, own = load(trained)
        before, after = (
            dev_quality(config, i, by_id, questions, e, progress)
            for i, e in ((index, embedder), (own, other))
        )
        return replace(trained, before=before, after=after, kept=after > before)

    tuned: TunedEmbedder = folder.stage("retriever", stage_key, TunedEmbedder, make)
    if not tuned.kept:
        return embedder, index, tuned
    return *load(tuned), tuned


def dev_quality(
    config: Config,
    index: Index,
    documents: dict[str, Document],
    questions: QuestionSet,
    embedder: Embedder,
    progress: Progress,
) -> float:
    """Mean nDCG@10 of dense search on dev (on train, leave-one-out, where dev is too small)."""
    usable, resources = tuning_ground(config, index, documents, questions, embedder, progress)
    retrieval = Retrieval(RagSpec(retrieve=(StageSpec("dense"),), passages=10), resources)
    retrieval.prepare(usable)
    rows = [retrieval_metrics(retrieval(q), q) for q in usable]
    metric = next((m for m in METRICS if rows and all(m in row for row in rows)), "")
    return float(np.mean([row[metric] for row in rows])) if metric else 0.0


def encoder_folder(config: Config) -> Path:
    """Folder of the configured embedder's weights.

    Raises:
        ConfigError: it is no folder on this machine.
        ModelError: the packaged embedder is not installed.
    """
    from domainlm.models.embedded import minilm_folder

    if config.embedder == "embedded":
        return minilm_folder()
    folder = Path(config.embedder.removeprefix("local:")).expanduser()
    if not folder.is_dir():
        raise ConfigError(
            f"embedder {config.embedder!r} is no folder on this machine, and only such a one can "
            "be tuned; save it to a folder and name that, or set training.retriever.epochs to 0"
        )
    return folder
