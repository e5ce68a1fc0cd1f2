"""Reference-based answer metrics and retrieval metrics; none of them needs a model to judge.

Every answer metric is the maximum over the references and lies in [0, 1].
"""

import math
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from domainlm.corpus.quotes import plain_marks
from domainlm.models.base import Embedder
from domainlm.schema import Passage, Question

EVIDENCE_OVERLAP = 0.6
"""Share of an evidence's tokens that makes a passage a hit without containing it verbatim."""

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_NOT_ALPHANUMERIC = re.compile(r"[^a-z0-9]+")
_WORD_OR_MARK = re.compile(r"\w+|[^\w\s]")


# --- answers --------------------------------------------------------------------------------


def normalise(text: str) -> str:
    """SQuAD normalisation (Rajpurkar et al., 2016): lower case, no punctuation, articles or extra
    blanks. Typographic quotes and dashes count as their ASCII forms.
    """
    plain = plain_marks(unicodedata.normalize("NFKC", text)).lower()
    return " ".join(_ARTICLES.sub(" ", plain.translate(_PUNCTUATION)).split())


def exact_match(prediction: str, references: Sequence[str]) -> float:
    """1 if the normalised prediction equals a normalised reference."""
    wanted = normalise(prediction)
    return float(any(wanted == normalise(r) for r in references))


def token_f1(prediction: str, references: Sequence[str]) -> float:
    """Harmonic mean of token precision and recall after normalisation (SQuAD F1)."""
    return _best(_token_f1, prediction, references)


def rouge_l_f(prediction: str, references: Sequence[str]) -> float:
    """ROUGE-L F (Lin, 2004) as the `rouge_score` package computes it without stemming."""
    return _best(lambda p, r: _rouge_l(p, r)[1], prediction, references)


def rouge_l_recall(prediction: str, references: Sequence[str]) -> float:
    """ROUGE-L recall: longest common subsequence over reference length. It rewards verbosity, so
    it is never a primary metric.
    """
    return _best(lambda p, r: _rouge_l(p, r)[0], prediction, references)


def token_overlap_recall(prediction: str, references: Sequence[str]) -> float:
    """Distinct shared tokens over all reference tokens, as continuous-eval defines it.

    Case matters and punctuation marks are tokens, typographic ones as ASCII. Contractions stay
    whole here, where NLTK's tokenizer splits some, so figures can differ in the third decimal.
    Rewards verbosity.
    """
    return _best(_token_overlap, prediction, references)


def semantic_similarities(
    predictions: Sequence[str], references: Sequence[Sequence[str]], embedder: Embedder
) -> list[float | None]:
    """Highest cosine between each prediction and its references, embedded in one batch.

    Returns:
        `(n,)` in [0, 1] (negative cosines count as 0); None where there is no reference, 0 for an
        empty prediction.
    """
    texts = sorted({t for t in predictions if t.strip()} | {r for rs in references for r in rs})
    vectors = embedder.embed(texts, "passage")
    row = {text: i for i, text in enumerate(texts)}
    scores: list[float | None] = []
    for prediction, wanted in zip(predictions, references, strict=True):
        if not wanted:
            scores.append(None)
        elif not prediction.strip():
            scores.append(0.0)
        else:
            cosines = vectors[[row[r] for r in wanted]] @ vectors[row[prediction]]
            scores.append(float(np.clip(cosines.max(), 0.0, 1.0)))
    return scores


def tokens(text: str) -> list[str]:
    """Tokens of the normalised text."""
    return normalise(text).split()


def lcs_length(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence, bit-parallel (Hyyrö, 2004): ROUGE-L of 90 words
    against 60 takes a thirtieth of the time of `rouge_score`, whose table is pure Python.
    """
    where: dict[str, int] = {}
    for i, token in enumerate(a):
        where[token] = where.get(token, 0) | (1 << i)
    every = (1 << len(a)) - 1
    row = every
    for token in b:
        hits = row & where.get(token, 0)
        row = ((row + hits) | (row - hits)) & every
    return len(a) - row.bit_count()


def _best(metric: Callable[[str, str], float], prediction: str, references: Sequence[str]) -> float:
    return max((metric(prediction, r) for r in references), default=0.0)


def _harmonic(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _token_f1(prediction: str, reference: str) -> float:
    said, wanted = tokens(prediction), tokens(reference)
    if not said or not wanted:
        return float(said == wanted)
    common = (Counter(said) & Counter(wanted)).total()
    return _harmonic(common / len(said), common / len(wanted))


def _rouge_l(prediction: str, reference: str) -> tuple[float, float]:
    """Recall and F."""
    said = _NOT_ALPHANUMERIC.sub(" ", prediction.lower()).split()
    wanted = _NOT_ALPHANUMERIC.sub(" ", reference.lower()).split()
    if not said or not wanted:
        return 0.0, 0.0
    common = lcs_length(wanted, said)
    recall = common / len(wanted)
    return recall, _harmonic(common / len(said), recall)


def _token_overlap(prediction: str, reference: str) -> float:
    wanted = _WORD_OR_MARK.findall(plain_marks(reference))
    shared = set(_WORD_OR_MARK.findall(plain_marks(prediction))) & set(wanted)
    return len(shared) / len(wanted) if wanted else 0.0


# --- retrieval ------------------------------------------------------------------------------


def recall_at_k(ranked: Sequence[str], gold: Sequence[str], k: int) -> float:
    """Share of the gold ids among the first `k` of a ranking without repeats."""
    return len(set(ranked[:k]) & set(gold)) / len(set(gold))


def reciprocal_rank(ranked: Sequence[str], gold: Sequence[str]) -> float:
    """One over the rank of the first gold id; 0 if there is none."""
    return next((1.0 / r for r, item in enumerate(ranked, start=1) if item in gold), 0.0)


def ndcg_at_k(ranked: Sequence[str], gold: Sequence[str], k: int = 10) -> float:
    """Normalised discounted cumulative gain with binary relevance (Järvelin and Kekäläinen)."""
    return _ndcg([r for r, item in enumerate(ranked, start=1) if item in gold], len(set(gold)), k)


def covers(passage: str, evidence: str) -> bool:
    """Whether a passage holds an evidence: verbatim after normalisation, or at least
    `EVIDENCE_OVERLAP` of its tokens.
    """
    return _covers(tokens(passage), tokens(evidence))


Objective = Literal["evidence_recall", "doc_recall"]
OBJECTIVES: tuple[Objective, ...] = ("evidence_recall", "doc_recall")
"""Metrics by which pipelines are chosen: the first that the questions allow."""


def retrieval_metrics(passages: Sequence[Passage], question: Question) -> dict[str, float]:
    """Ranking quality of the passages that one question was given, best first.

    Document level: `doc_recall`, `doc_mrr`, `doc_ndcg@10` over the order in which documents first
    appear, and `all_support` (every gold document found), absent where the search was confined to
    the gold documents anyway. Passage level: `evidence_recall`, `evidence_mrr`, `evidence_ndcg@10`
    over the rank at which each evidence is first covered; a passage of a document that is not gold
    never counts, since boilerplate repeats across documents.
    """
    metrics: dict[str, float] = {}
    gold = question.doc_ids
    if gold and set(question.scope) != set(gold):
        ranked = list(dict.fromkeys(p.doc_id for p in passages))
        recall = recall_at_k(ranked, gold, len(ranked))
        metrics["doc_recall"] = recall
        metrics["doc_mrr"] = reciprocal_rank(ranked, gold)
        metrics["doc_ndcg@10"] = ndcg_at_k(ranked, gold)
        metrics["all_support"] = float(recall == 1.0)
    if question.evidence:
        eligible = [
            (r, tokens(p.text)) for r, p in enumerate(passages, 1) if not gold or p.doc_id in gold
        ]
        first = [
            next((r for r, said in eligible if _covers(said, wanted)), None)
            for wanted in map(tokens, question.evidence)
        ]
        ranks = [r for r in first if r is not None]
        metrics["evidence_recall"] = len(ranks) / len(first)
        metrics["evidence_mrr"] = 1.0 / min(ranks) if ranks else 0.0
        metrics["evidence_ndcg@10"] = _ndcg(ranks, len(first), 10)
    return metrics


def _covers(said: list[str], wanted: list[str]) -> bool:
    if not wanted or f" {' '.join(wanted)} " in f" {' '.join(said)} ":
        return bool(wanted)
    return (Counter(wanted) & Counter(said)).total() >= EVIDENCE_OVERLAP * len(wanted)


def _ndcg(ranks: Sequence[int], relevant: int, k: int) -> float:
    gain = sum(1 / math.log2(r + 1) for r in ranks if r <= k)
    ideal = sum(1 / math.log2(r + 1) for r in range(1, min(relevant, k) + 1))
    # Two evidences in one passage share a rank and would otherwise beat the ideal ranking.
    return min(1.0, gain / ideal) if ideal else 0.0
