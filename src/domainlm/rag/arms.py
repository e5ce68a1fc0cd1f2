"""The arms by name: which of them read passages, and how each is put together."""

from __future__ import annotations

from domainlm.models.base import ChatModel
from domainlm.rag.communities import by_community
from domainlm.rag.pipeline import Arm, Gate, Retrieval, closed_book, with_retrieval
from domainlm.rag.reading import with_documents
from domainlm.rag.replug import with_ensemble
from domainlm.schema import Sampling

CLOSED_BOOK = ("base", "tuned")
"""Arms that answer without passages."""


def arm_of(
    name: str,
    model: ChatModel,
    sampling: Sampling,
    retrieval: Retrieval | None,
    gate: Gate | None = None,
) -> Arm:
    """The arm `name` on `model`, with the reader that the pipeline names; a closed-book arm needs
    no retrieval. A `gate` goes with the reader of all passages together alone.
    """
    if name in CLOSED_BOOK:
        return closed_book(name, model, sampling)
    assert retrieval is not None, name
    reader, resources = retrieval.spec.reader, retrieval.resources
    if reader == "per_document":
        return with_documents(name, model, sampling, retrieval, resources.documents)
    if reader == "replug":
        return with_ensemble(name, model, sampling, retrieval)
    if reader == "global":
        return with_documents(
            name, model, sampling, retrieval, resources.documents, by_community(resources)
        )
    return with_retrieval(name, model, sampling, retrieval, gate)
