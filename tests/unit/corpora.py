"""Small corpora in memory for tests of stages and pipelines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from domainlm.corpus.chunking import chunk_document
from domainlm.models.base import ChatModel
from domainlm.models.fake import FakeEmbedder
from domainlm.rag.stages import Resources
from domainlm.retrieval import build_index
from domainlm.schema import Document, Question


def resources_of(
    folder: Path,
    documents: Sequence[Document],
    *,
    tokens: int = 60,
    header: bool = False,
    model: ChatModel | None = None,
    examples: tuple[Question, ...] = (),
) -> Resources:
    """An index in memory with a scripted embedder, and what stages need beside it."""
    embedder = FakeEmbedder()
    index = build_index(
        folder / "index",
        documents,
        lambda d: chunk_document(d, tokens=tokens, header=header),
        embedder,
        store="memory",
    )
    load = (lambda: model) if model else None
    return Resources(index, {d.id: d for d in documents}, embedder, load, examples=examples)
