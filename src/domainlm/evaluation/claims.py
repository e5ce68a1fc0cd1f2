"""How much of a long reference an answer says, claim by claim, without a model.

A claim is a sentence. Its share is that of its content words which the best sentence of the other
text holds, two neighbours together counting as one; a claim whose numbers are not all among them
counts half, since a wrong figure in the right words is not the claim.
"""

from __future__ import annotations

from collections.abc import Sequence

from domainlm.corpus.chunking import sentence_spans
from domainlm.rag.citations import words


def claim_coverage(prediction: str, references: Sequence[str]) -> float:
    """Mean share of a reference's claims that the prediction says; best reference.

    Of 380 judgements of two RAG answers (RAGChecker) the difference of ROUGE-L F follows people's
    preference closer than this or an F of this does, so it says what is missing and is no primary
    metric. It rewards verbosity.
    """
    said = _claims(prediction)
    return max((_covered(_claims(r), said) for r in references), default=0.0)


def _claims(text: str) -> list[set[str]]:
    found = (words(text[start:end]) for start, end in sentence_spans(text))
    return [claim for claim in found if claim]


def _covered(claims: list[set[str]], by: list[set[str]]) -> float:
    """Mean share of the claims' words that the best one or two sentences hold."""
    if not claims or not by:
        return 0.0
    windows = [*by, *(a | b for a, b in zip(by, by[1:], strict=False))]
    total = 0.0
    for claim in claims:
        best = max(windows, key=lambda window: len(claim & window))
        numbers = {w for w in claim if w[0].isdigit()}
        share = len(claim & best) / len(claim)
        total += share if numbers <= best else share / 2
    return total / len(claims)
