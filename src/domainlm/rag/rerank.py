"""Reranking: read the question and each candidate together, and order by what is seen."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from domainlm.errors import ConfigError, ModelError
from domainlm.models.base import Array, Embedder, Reranker
from domainlm.rag.prompts import quoted
from domainlm.rag.stages import PostProcessor, Resources
from domainlm.schema import Message, Passage, Sampling

if TYPE_CHECKING:
    from domainlm.models.late import LateInteraction

_NUMBER = re.compile(r"(?<!\d)\d{1,3}(?!\d)")
_KEPT = 500
"""Passages whose token vectors are remembered, about 200 kB each."""


@runtime_checkable
class TokenEmbedder(Protocol):
    """An embedder that also gives a unit vector per token."""

    def embed_tokens(self, texts: Sequence[str]) -> list[Array]:
        """Token vectors of each text, (tokens, d)."""
        ...


def cross_encoder(
    resources: Resources, *, model: str, weight: float = 1.0, max_length: int = 512
) -> PostProcessor:
    """Order by a sequence classifier over question and passage (Nogueira & Cho, 1901.04085; in
    RAG: Re2G, 2207.06300). `model` is a folder or hub id; `weight` the share of its rank against
    the retriever's in the new order.

    Raises:
        ModelError: there is no such classifier.
    """
    key = ("cross_encoder", model, max_length)
    # At once: a mistyped folder must not run as "no reranking" through every question.
    if key not in resources.cache:
        from domainlm.models.rerank import CrossEncoder

        resources.cache[key] = CrossEncoder(
            model, max_length=max_length, allow_download=resources.allow_download
        )
    encoder: Reranker = resources.cache[key]

    def process(question: str, passages: Sequence[Passage]) -> list[Passage]:
        return reorder(passages, encoder.score(question, [p.text for p in passages]), weight)

    return process


def late_interaction(resources: Resources, *, weight: float = 0.5, head: str = "") -> PostProcessor:
    """Order by MaxSim over token vectors (ColBERT, Khattab & Zaharia, 2004.12832): each word of the
    question counts by its best match in the passage. The vectors are the embedder's own, or those
    of the trained `head`, a folder that `benchmarks/train_reranker.py` wrote.

    Raises:
        ConfigError: the embedder gives no token vectors, or the folder holds no head.
        ModelError: MiniLM, on which heads stand, is not installed.
    """
    ask, read = _trained(resources, head) if head else _own(resources.embedder)
    recent: dict[tuple[str, str], Array] = resources.cache.setdefault(("token vectors", head), {})

    def process(question: str, passages: Sequence[Passage]) -> list[Passage]:
        wanted = [(p.chunk_id, p.text) for p in passages]
        fresh = {k: p for k, p in zip(wanted, passages, strict=True) if k not in recent}
        query = ask(question).astype(np.float32)
        recent.update(zip(fresh, read(list(fresh.values())), strict=True))
        texts = [recent[key].astype(np.float32) for key in wanted]
        while len(recent) > _KEPT:
            del recent[next(iter(recent))]
        scores = [float((query @ t.T).max(1).sum()) if len(t) and len(query) else 0 for t in texts]
        return reorder(passages, scores, weight)

    return process


_Ask = Callable[[str], Array]
_Read = Callable[[Sequence[Passage]], list[Array]]


def _own(embedder: Embedder) -> tuple[_Ask, _Read]:
    """A question's token vectors, weighted alike, and those of passages."""
    if not isinstance(embedder, TokenEmbedder):
        raise ConfigError(
            "late_interaction needs token vectors, which this embedder does not give; "
            "use `embedder: embedded` or a local one"
        )

    def ask(question: str) -> Array:
        (vectors,) = embedder.embed_tokens([question])
        return vectors / np.float32(max(len(vectors), 1))

    return ask, lambda passages: embedder.embed_tokens([p.text for p in passages])


def _trained(resources: Resources, head: str) -> tuple[_Ask, _Read]:
    """The same by a trained head, which reads a passage with its title."""
    key = ("late interaction", head)
    if key not in resources.cache:
        from domainlm.models.late import LateInteraction

        resources.cache[key] = LateInteraction(Path(head))
    late: LateInteraction = resources.cache[key]
    return late.question, lambda passages: late.passages([titled(p) for p in passages])


def titled(passage: Passage, max_chars: int | None = None) -> str:
    """A passage behind its title, both as a reader would see them."""
    text = passage.text[:max_chars]
    return f"{passage.title}\n{text}" if passage.title else text


def likelihood(
    resources: Resources, *, weight: float = 0.4, depth: int = 10, max_chars: int = 1_000
) -> PostProcessor:
    """Order the first `depth` passages by how likely the model is to go on with the question after
    reading the first `max_chars` characters of each (query likelihood, Ponte & Croft 1998; by a
    language model as it is: Sachan et al., 2204.07496; Zhuang et al., 2310.13243).

    `weight` is the share of that likelihood against the retriever's score.
    """

    def process(question: str, passages: Sequence[Passage]) -> list[Passage]:
        head, tail = list(passages[:depth]), list(passages[depth:])
        if len(head) < 2:
            return list(passages)
        model = resources.model()
        surprise = getattr(model, "surprise", None)
        if surprise is None:
            raise ModelError(
                f"`likelihood` needs token probabilities, which {model.name} does not give; use "
                "the embedded or a local model"
            )
        told = surprise([(f"{titled(p, max_chars)}\n", question) for p in head])
        ranked = reorder(head, [-nats for nats in told], weight)
        # Scaled scores say nothing about those that were not read.
        return [*ranked, *(replace(p, score=0.0) for p in tail)]

    return process


def model_rank(resources: Resources, *, depth: int = 10, max_chars: int = 600) -> PostProcessor:
    """Ask the model to name the best of the first `depth` passages in order (Sun et al.,
    2304.09542); those that it does not name follow as they were.
    """

    def process(question: str, passages: Sequence[Passage]) -> list[Passage]:
        head, tail = list(passages[:depth]), list(passages[depth:])
        if len(head) < 2:
            return list(passages)
        shown = "\n\n".join(f"[{n}] {quoted(p.text[:max_chars])}" for n, p in enumerate(head, 1))
        task = "List the numbers of the passages that help to answer the question, best first."
        chat = (Message("system", task), Message("user", f"{shown}\n\nQuestion: {question}"))
        made = resources.model().generate([chat], Sampling(max_tokens=4 * depth))[0]
        named = [int(n) for n in _NUMBER.findall(made.text) if 1 <= int(n) <= len(head)]
        if made.finish == "error" or not named:
            raise ModelError(made.error or f"the model named no passage: {made.text[:60]!r}")
        order = list(dict.fromkeys([*(n - 1 for n in named), *range(len(head))]))
        return [*(head[n] for n in order), *tail]

    return process


def reorder(
    passages: Sequence[Passage], scores: Sequence[float], weight: float = 1.0
) -> list[Passage]:
    """Passages by new scores; below `weight` 1 the old order has its share, both scaled to [0, 1].

    Ties keep the old order.
    """
    new = _scaled(scores)
    old = _scaled([p.score for p in passages])
    mixed = weight * new + (1 - weight) * old
    order = sorted(range(len(passages)), key=lambda n: (-round(float(mixed[n]), 9), n))
    return [replace(passages[n], score=float(mixed[n])) for n in order]


def _scaled(scores: Sequence[float]) -> Array:
    values = np.asarray(scores, np.float32)
    span = float(np.ptp(values)) if len(values) else 0.0
    scaled: Array = (values - values.min()) / span if span > 0 else np.zeros_like(values)
    return scaled
