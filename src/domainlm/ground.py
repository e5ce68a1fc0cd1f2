"""What every arm stands on: documents read, questions split by document, an index, a pipeline."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from domainlm import (
    __version__,
    contenders,
    provenance,
)
from domainlm.artifacts import (
    Progress,
    RunDir,
    digest,
)
from domainlm.config import Config
from domainlm.corpus.questions import check_documents
from domainlm.corpus.sets import read_asked, read_documents
from domainlm.corpus.splits import split_questions
from domainlm.errors import DataError
from domainlm.evaluation.tasks import choose
from domainlm.fusion import DENSE_SHARE
from domainlm.models.base import Embedder
from domainlm.rag.graph import merges_of
from domainlm.retrieval import Index, IndexDelta
from domainlm.retriever_tuning import tuned_retrieval
from domainlm.schema import (
    Document,
    Quarantined,
    QuestionSet,
    Trial,
)


@dataclass(frozen=True)
class Ground:
    """What all arms share: documents, split questions, one index, the chosen pipeline.

    `embedder` searches and may be tuned; `scorer`, the configured one, compares answers.
    """

    documents: tuple[Document, ...]
    quarantined: tuple[Quarantined, ...]
    questions: QuestionSet
    index: Index
    trials: tuple[Trial, ...]
    embedder: Embedder
    scorer: Embedder
    corpus_key: str
    split_key: str
    pipeline_key: str

    @property
    def by_id(self) -> dict[str, Document]:
        """Documents by id."""
        return {d.id: d for d in self.documents}


def prepare(config: Config, folder: RunDir, progress: Progress) -> Ground:
    """Documents, questions, index and pipeline: what every arm stands on.

    Raises:
        ConfigError: a model or a stage is unknown.
        DataError: documents or questions cannot be used.
        ModelError: a model cannot be loaded or reached.
    """
    contenders.check_names(config)
    provenance.refuse_mixed_folders(config)
    read_key = corpus_key(config)
    documents, quarantined = read_corpus(config, folder, read_key, progress)
    questions, split_key = split_corpus(config, folder, read_key, documents)
    embedder = contenders.load_configured_embedder(config)
    index_key = digest(read_key, config.chunking, embedder.name)
    index, _ = contenders.open_index(folder, index_key, config, documents, embedder, progress)
    scorer = embedder
    if config.training.retriever.epochs:
        index_key = digest(index_key, split_key, config.training.retriever, config.seed)
        embedder, index, _ = tuned_retrieval(
            config, folder, index_key, index, documents, questions, embedder, progress
        )
    pipeline_key = digest(
        index_key,
        split_key,
        config.rag,
        config.evaluation.dev_questions,
        merges_of(index),
        # Stages that name no share were tried with this one.
        DENSE_SHARE,
    )
    by_id = {d.id: d for d in documents}
    trials: tuple[Trial, ...] = folder.stage(
        "pipeline",
        pipeline_key,
        tuple[Trial, ...],
        lambda: contenders.choose_pipeline(config, index, by_id, questions, embedder, progress),
    )
    return Ground(
        documents,
        quarantined,
        questions,
        index,
        trials,
        embedder,
        scorer,
        read_key,
        split_key,
        pipeline_key,
    )


def indexed(
    config: Config, folder: RunDir, progress: Progress
) -> tuple[tuple[Document, ...], tuple[Quarantined, ...], Index, IndexDelta]:
    """Documents, what was set aside, their index and what building it changed."""
    provenance.refuse_mixed_folders(config)
    key = corpus_key(config)
    documents, quarantined = read_corpus(config, folder, key, progress)
    embedder = contenders.load_configured_embedder(config)
    index_key = digest(key, config.chunking, embedder.name)
    index, delta = contenders.open_index(folder, index_key, config, documents, embedder, progress)
    return documents, quarantined, index, delta


def corpus_key(config: Config) -> str:
    """Digest of the documents as they are, and of the code that reads them."""
    return digest(provenance.documents_digest(config), __version__)


def read_corpus(
    config: Config, folder: RunDir, key: str, progress: Progress
) -> tuple[tuple[Document, ...], tuple[Quarantined, ...]]:
    """The readable documents, and the files that were set aside."""

    def read() -> tuple[tuple[Document, ...], tuple[Quarantined, ...]]:
        documents, quarantined = read_documents(
            config.documents, config.questions, config.format, progress.update
        )
        return tuple(documents), tuple(quarantined)

    kind = tuple[tuple[Document, ...], tuple[Quarantined, ...]]
    corpus: tuple[tuple[Document, ...], tuple[Quarantined, ...]]
    corpus = folder.stage("documents", key, kind, read)
    return corpus


def split_corpus(
    config: Config, folder: RunDir, key: str, documents: tuple[Document, ...]
) -> tuple[QuestionSet, str]:
    """The questions split by document, and the digest of what the split depends on."""
    split_key = digest(
        key, provenance.file_digest(config.questions), config.split, *provenance.format_of(config)
    )
    questions: QuestionSet = folder.stage(
        "questions", split_key, QuestionSet, lambda: read_questions(config, documents)
    )
    return questions, split_key


def read_questions(config: Config, documents: tuple[Document, ...]) -> QuestionSet:
    """Read the questions, leave out those about absent documents and those that no answer can get
    right, and split by document.

    Raises:
        DataError: the file is missing, malformed or empty, or no question is left.
    """
    known, absent = check_documents(read_asked(config.questions, config.format), documents)
    scored = [q for q in known if q.references or q.task == "unanswerable"]
    if known and not scored:
        raise DataError(
            f"none of the {len(known)} questions in {config.questions} has a reference answer to "
            "score against; add references, or give the task 'unanswerable' to those without"
        )
    bare = [(q.id, "no reference answer") for q in known if q not in scored]
    hopeless = [
        (q.id, f"the answer {q.references[0]:.40} is none of its choices")
        for q in scored
        if q.choices and q.references and not any(choose(r, q.choices) for r in q.references)
    ]
    never = {question_id for question_id, _ in hopeless}
    questions = split_questions(
        [q for q in scored if q.id not in never],
        documents,
        seed=config.split.seed,
        dev=config.split.dev,
        test_new=config.split.test_new,
        test_known=config.split.test_known,
    )
    return dataclasses.replace(questions, dropped=(*absent, *bare, *hopeless, *questions.dropped))
