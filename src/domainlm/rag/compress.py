"""Compression: show the reader less, without losing what answers the question.

Passages keep their spans; only the text shown is shorter, with an ellipsis where something is cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from domainlm.corpus.chunking import sentence_spans
from domainlm.errors import ConfigError
from domainlm.rag.stages import PostProcessor, Resources
from domainlm.schema import Passage

CUT = " … "


def sentences(resources: Resources, *, keep: float = 0.5, around: int = 0) -> PostProcessor:
    """Extractive compression (RECOMP, Xu et al., 2310.04408): the sentences nearest the question,
    with `around` neighbours, until they are a share `keep` of all characters.
    """

    def process(question: str, passages: Sequence[Passage]) -> list[Passage]:
        parts = _sentences(passages)
        if len(parts) < 2:
            return list(passages)
        query = resources.index.embed_queries([question])[0]
        texts = [passages[n].text[start:end] for n, start, end in parts]
        near = resources.embedder.embed(texts, "passage") @ query
        room = keep * sum(map(len, texts))
        chosen: set[int] = set()
        for i in sorted(range(len(parts)), key=lambda i: (-float(near[i]), i)):
            if room <= 0:
                break
            for j in range(max(0, i - around), min(len(parts), i + around + 1)):
                if parts[j][0] == parts[i][0] and j not in chosen:
                    chosen.add(j)
                    room -= len(texts[j])
        return _shown(passages, [parts[i] for i in sorted(chosen)])

    return process


def perplexity(resources: Resources, *, keep: float = 0.6, max_chars: int = 6000) -> PostProcessor:
    """Drop the sentences that the model can guess best, given the question (LLMLingua, Jiang et
    al., 2310.05736, by sentence): what is predictable tells the reader least.

    Raises:
        ConfigError: the model gives no token probabilities (hosted ones do not).
    """

    def process(question: str, passages: Sequence[Passage]) -> list[Passage]:
        model = resources.model()
        surprise = getattr(model, "surprise", None)
        if surprise is None:
            raise ConfigError(
                "`perplexity` needs token probabilities; use it with the embedded or a local model"
            )
        parts = _sentences(passages, max_chars)
        texts = [passages[n].text[start:end] for n, start, end in parts]
        if len(texts) < 2:
            return list(passages)
        told = np.asarray(surprise([(f"Question: {question}\n", text) for text in texts]))
        room = keep * sum(map(len, texts))
        chosen = []
        for i in sorted(range(len(parts)), key=lambda i: (-float(told[i]), i)):
            if room <= 0:
                break
            chosen.append(i)
            room -= len(texts[i])
        return _shown(passages, [parts[i] for i in sorted(chosen)])

    return process


def _sentences(
    passages: Sequence[Passage], max_chars: int | None = None
) -> list[tuple[int, int, int]]:
    """(passage, start, end) of every sentence, of the first `max_chars` characters if given."""
    return [
        (n, start, end)
        for n, p in enumerate(passages)
        for start, end in sentence_spans(p.text[:max_chars])
        if p.text[start:end].strip()
    ]


def _shown(passages: Sequence[Passage], parts: Sequence[tuple[int, int, int]]) -> list[Passage]:
    """Passages cut down to their chosen parts; one without any is dropped."""
    shown = []
    for n, passage in enumerate(passages):
        mine = [(start, end) for owner, start, end in parts if owner == n]
        if not mine:
            continue
        text, last = "", 0
        for start, end in mine:
            gap = passage.text[last:start]
            text += (CUT if gap.strip() else gap) + passage.text[start:end]
            last = end
        text += CUT.rstrip() if passage.text[last:].strip() else ""
        shown.append(replace(passage, text=text.strip()))
    return shown
