"""Groundedness: is each claim of an answer supported by the passages that were shown?

What speaks for and against a claim (`support`) goes through a small head that gives the probability
that the claim is supported. The head ships with the package and was trained by
`benchmarks/train_groundedness.py`. No model is asked, no judge, no network.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from domainlm.artifacts import digest
from domainlm.evaluation.claims import claims as claims_of
from domainlm.evaluation.claims import states
from domainlm.evaluation.support import evidence, features
from domainlm.evaluation.tasks import score_answers
from domainlm.models.base import Embedder
from domainlm.schema import Answer, Citation, Passage, Question, Score

Floats = NDArray[np.float64]

HEAD_FILE = "groundedness.json"
ARRAYS = ("mean", "scale", "inner", "inner_bias", "outer")
"""Arrays of a head, as its file names them."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim, what was asked, and the texts of the passages that were shown."""

    text: str
    question: str
    passages: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Head:
    """One hidden layer over named features: `mean` and `scale` `(f,)` standardise them, `inner`
    `(f, h)` with `inner_bias` `(h,)` is the layer, `outer` `(h,)` and `bias` give the logit.
    """

    names: tuple[str, ...]
    mean: Floats
    scale: Floats
    inner: Floats
    inner_bias: Floats
    outer: Floats
    bias: float

    def probability(self, features: Floats) -> Floats:
        """`(n, f)` features -> `(n,)` probabilities of support."""
        units = np.tanh((features - self.mean) / self.scale @ self.inner + self.inner_bias)
        return np.asarray(1.0 / (1.0 + np.exp(-(units @ self.outer + self.bias))))


def support(claims: Sequence[Claim]) -> list[float]:
    """The probability that its passages support each claim, in order; 0 without passages."""
    found = [0.0] * len(claims)
    places, rows = feature_rows(claims)
    if places:
        for place, p in zip(places, head().probability(rows), strict=True):
            found[place] = float(p)
    return found


def feature_rows(claims: Sequence[Claim]) -> tuple[list[int], Floats]:
    """Places of the claims that have words and passages, and their features `(n, f)`."""
    places, rows = [], []
    # Arms answer the same questions from the same passages: side by side, those are read once.
    for n in sorted(range(len(claims)), key=lambda n: claims[n].passages):
        shown = evidence(claims[n].passages)
        if claims[n].text.strip() and shown.sentences:
            places.append(n)
            rows.append(features(claims[n].text, claims[n].question, shown))
    return places, np.asarray(rows, dtype=np.float64)


@functools.cache
def head() -> Head:
    """The shipped head."""
    return head_of(json.loads(_file())["head"])


@functools.cache
def head_digest() -> str:
    """What identifies the shipped head: scores of two digests do not compare."""
    return digest(_file())[:12]


def _file() -> str:
    return (files("domainlm.evaluation") / HEAD_FILE).read_text("utf-8")


def head_of(values: Mapping[str, Any]) -> Head:
    """A head as the file holds it."""
    arrays = {name: np.asarray(values[name], dtype=np.float64) for name in ARRAYS}
    return Head(names=tuple(values["names"]), bias=float(values["bias"]), **arrays)


def score_grounded(
    answers: Sequence[Answer], questions: Sequence[Question], embedder: Embedder | None = None
) -> list[Score]:
    """`score_answers`, and groundedness beside it."""
    return with_groundedness(score_answers(answers, questions, embedder), answers, questions)


def with_groundedness(
    scores: Sequence[Score], answers: Sequence[Answer], questions: Sequence[Question]
) -> list[Score]:
    """Scores of arms that retrieve, with how well their answers stand on what was retrieved.

    - `groundedness`: the expected share of the answer's claims that its passages support;
    - `citation_recall`: the expected share of its sentences whose own citation supports them;
    - `citation_precision`: the same among the sentences that have a citation (both as in ALCE, Gao
      et al., 2305.14627, with this scorer for its NLI model).

    An abstention or an empty answer claims nothing and gets none of them; neither do arms without
    any passage. An answer that found no passage gets zeros.
    """
    asked = {q.id: q.text for q in questions}
    retrieving = {a.arm for a in answers if a.passages}
    wanted: list[Claim] = []
    parts: list[tuple[int, int, int] | None] = []
    for answer in answers:
        text, question = answer.text.strip(), asked[answer.question_id]
        own = claims_of(text) if answer.arm in retrieving and not answer.failed else ()
        if not own:
            parts.append(None)
            continue
        shown = tuple(p.text for p in answer.passages)
        cited = cited_claims(answer, question)
        parts.append((len(wanted), len(own), len(cited)))
        wanted += [Claim(c, question, shown) for c in own]
        wanted += cited
    held = support(wanted)
    found = []
    for score, part in zip(scores, parts, strict=True):
        if part is None:
            found.append(score)
            continue
        at, n, m = part
        values = {"groundedness": float(np.mean(held[at : at + n]))}
        if m:
            cites = slice(at + n, at + n + m)
            values["citation_recall"] = float(np.mean(held[cites]))
            pairs = zip(held[cites], wanted[cites], strict=True)
            if pointing := [p for p, claim in pairs if claim.passages]:
                values["citation_precision"] = float(np.mean(pointing))
        found.append(dataclasses.replace(score, metrics=score.metrics | values))
    return found


def cited_claims(answer: Answer, question: str) -> list[Claim]:
    """Each sentence of an answer that states something, with the span that it cites or nothing."""
    return [
        Claim(said, question, _cited_text(c, answer.passages))
        for c in answer.citations
        if states(said := answer.text[c.start : c.end].strip())
    ]


def _cited_text(citation: Citation, passages: Sequence[Passage]) -> tuple[str, ...]:
    if not citation.doc_id:
        return ()
    for p in passages:
        start, end = citation.source_start - p.start, citation.source_end - p.start
        if p.doc_id == citation.doc_id and 0 <= start < end <= p.end - p.start:
            # A compressed passage no longer stands verbatim in its document: all of it is cited.
            return (p.text[start:end] if len(p.text) == p.end - p.start else p.text,)
    return ()
