"""Selective answering: an arm withholds the answers that it is least entitled to give.

Some questions have no answer in the documents, and a small model answers them all the same. What
gives such an answer away is learned on the dev questions by a logistic regression over nine signs:
how sure the model was of its tokens, how well the best passage fitted, and whether the answer looks
like earlier right answers to that question rather than like answers to others. The probability of
the whole answer alone orders well what is right, and hardly what is answerable: hence the rest.

Selective question answering: Kamath et al. 2020 (arXiv 2006.09462).
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.optimize as _optimize
from numpy.typing import NDArray

from domainlm.errors import DataError
from domainlm.evaluation.abstention import is_abstention
from domainlm.evaluation.tasks import clusters_of
from domainlm.models.base import Embedder
from domainlm.schema import ABSTENTION, Answer, Doubt, Known, Question

Array = NDArray[np.float64]

SIGNS = (
    "log-probability of the answer",
    "its least likely token",
    "its first tokens",
    "score of the best passage",
    "its lead over the last one",
    "words in the answer",
    "likeness to right answers",
    "lead over answers to other questions",
    "share of other questions it is liker to",
)
MIN_ANSWERABLE, MIN_UNANSWERABLE = 20, 10
"""Dev questions of either kind below which nothing is learned."""
_KINDS = 256
_CHARACTERS = 600
_RIDGE = 0.02
_FOLDS = 5


def known_answers(train: Sequence[Question], embedder: Embedder) -> Known:
    """What right answers to the train questions look like, question by question.

    Questions with the same words are one kind; of more than 256 kinds the most frequent are kept.

    Returns:
        Unit vectors of each kind's question and of the mean of its answers; empty if none has a
        reference.
    """
    kinds: dict[str, list[str]] = {}
    for question in train:
        if question.task != "unanswerable" and question.references:
            words = " ".join(question.text.casefold().split())
            kinds.setdefault(words, []).append(question.references[0][:_CHARACTERS])

    def order(kind: str) -> tuple[int, str]:
        return -len(kinds[kind]), hashlib.sha256(kind.encode()).hexdigest()

    chosen = sorted(kinds, key=order)[:_KINDS]
    if not chosen:
        return Known((), ())
    asked = embedder.embed(chosen, "passage")
    answers = embedder.embed([a for k in chosen for a in kinds[k]], "passage")
    bounds = [0, *itertools.accumulate(len(kinds[k]) for k in chosen)]
    means = [answers[low:high].mean(axis=0) for low, high in itertools.pairwise(bounds)]
    unit = [mean / max(float(np.linalg.norm(mean)), 1e-9) for mean in means]
    return Known(_rounded(asked), _rounded(unit))


def learn(
    arm: str,
    answers: Sequence[Answer],
    questions: Sequence[Question],
    known: Known,
    embedder: Embedder,
    keep: float,
) -> Doubt | None:
    """Learn from dev when this arm had better not answer.

    Args:
        arm: Its name.
        answers: Its answers to dev questions; what failed or abstains anyway teaches nothing.
        questions: The dev questions, answerable and not.
        known: Of the train questions.
        embedder: As `known` was made with.
        keep: Least share of the answerable dev questions that stay answered, estimated on
            documents that the regression did not see.

    Returns:
        None if dev holds too few questions of either kind, or all are about one document.
    """
    by_id = {q.id: q for q in questions}
    own = [a for a in answers if a.arm == arm and a.question_id in by_id]
    given = [a for a in own if not a.failed and not is_abstention(a.text)]
    asked = [by_id[a.question_id] for a in given]
    answerable = np.array([q.task != "unanswerable" for q in asked], dtype=bool)
    if answerable.sum() < MIN_ANSWERABLE or (~answerable).sum() < MIN_UNANSWERABLE:
        return None
    x = signs(given, asked, known, embedder)
    y = np.where(answerable, 1.0, -1.0)
    clusters = clusters_of(asked)
    folds = folds_of([clusters[q.id] for q in asked])
    if len(folds) < 2:
        return None
    held_out = np.empty(len(given))
    for fold in folds:
        weights, centre, scale = _fit(x[~fold], y[~fold])
        held_out[fold] = _score(x[fold], weights, centre, scale)
    missing = sum(by_id[a.question_id].task == "unanswerable" for a in own)
    total = len(own) - missing
    # Abstentions have used up part of what may go.
    may_go = int(answerable.sum() - math.ceil(keep * total - 1e-9))
    cutoff = float(np.sort(held_out[answerable])[may_go]) if may_go > 0 else None
    stays = held_out >= (-math.inf if cutoff is None else cutoff)
    weights, centre, scale = _fit(x, y)
    return Doubt(
        arm=arm,
        centre=tuple(map(float, centre)),
        scale=tuple(map(float, scale)),
        weights=tuple(map(float, weights)),
        cutoff=cutoff,
        answerable=total,
        unanswerable=missing,
        kept=float((stays & answerable).sum() / total),
        refused=float(1 - (stays & ~answerable).sum() / missing),
    )


def withhold(
    answers: Sequence[Answer],
    questions: Sequence[Question],
    doubts: Mapping[str, Doubt],
    known: Known,
    embedder: Embedder,
) -> list[Answer]:
    """The answers, those below their arm's cutoff replaced by the abstention; `withheld` keeps
    what would have been said.
    """
    by_id = {q.id: q for q in questions}
    made = list(answers)
    for arm, doubt in doubts.items():
        places = [
            n
            for n, a in enumerate(made)
            if a.arm == arm and not a.failed and not is_abstention(a.text) and not a.withheld
        ]
        if not places or doubt.cutoff is None:
            continue
        mine = [made[n] for n in places]
        x = signs(mine, [by_id[a.question_id] for a in mine], known, embedder)
        if x.shape[1] != len(doubt.centre):
            raise DataError(
                f"what {arm} learned to withhold has {len(doubt.centre)} signs, this version "
                f"reads {x.shape[1]}; run the benchmark again"
            )
        found = _score(x, *(np.array(v) for v in (doubt.weights, doubt.centre, doubt.scale)))
        for n, score in zip(places, found, strict=True):
            if score < doubt.cutoff:
                made[n] = dataclasses.replace(
                    made[n], text=ABSTENTION, withheld=made[n].text, citations=()
                )
    return made


def signs(
    answers: Sequence[Answer], questions: Sequence[Question], known: Known, embedder: Embedder
) -> Array:
    """What speaks for each answer, `(n, 9)` in the order of `SIGNS`; what a model or an arm does
    not tell is 0 for all.
    """
    found = np.zeros((len(answers), len(SIGNS)))
    for row, answer in zip(found, answers, strict=True):
        if answer.certainty is not None:
            row[:3] = answer.certainty.total, answer.certainty.lowest, answer.certainty.opening
        scores = [p.score for p in answer.passages]
        if scores:
            row[3:5] = max(scores), max(scores) - min(scores)
        row[5] = math.log1p(len(answer.text.split()))
    if known.questions:
        texts = embedder.embed([a.text[:_CHARACTERS] for a in answers], "passage")
        asked = embedder.embed([q.text for q in questions], "passage")
        kind = (asked @ np.asarray(known.questions, dtype=np.float32).T).argmax(axis=1)
        likeness = texts @ np.asarray(known.answers, dtype=np.float32).T
        own = likeness[np.arange(len(answers)), kind]
        best = np.sort(likeness, axis=1)[:, -3:].mean(axis=1)
        found[:, 6], found[:, 7] = own, own - best
        found[:, 8] = -(likeness > own[:, None]).mean(axis=1)
    return found


def _fit(x: Array, y: Array) -> tuple[Array, Array, Array]:
    """Ridge-penalised logistic regression on standardised signs; the last weight is the bias."""
    centre, scale = x.mean(axis=0), x.std(axis=0)
    # A sign that never varies says nothing, and must not blow up on a stray value later.
    scale = np.where(scale > 1e-9, scale, 1e12)
    z = np.c_[(x - centre) / scale, np.ones(len(x))]
    # Both kinds weigh the same, whatever their numbers.
    weight = np.where(y > 0, 0.5 / max((y > 0).sum(), 1), 0.5 / max((y < 0).sum(), 1))

    def loss(w: Array) -> tuple[float, Array]:
        margin = -y * (z @ w)
        gradient = z.T @ (weight * -y / (1 + np.exp(-margin)))
        gradient[:-1] += 2 * _RIDGE * w[:-1]
        return float(weight @ np.logaddexp(0, margin) + _RIDGE * w[:-1] @ w[:-1]), gradient

    found: Any = _optimize.minimize(loss, np.zeros(z.shape[1]), jac=True, method="L-BFGS-B")
    return np.asarray(found.x), centre, scale


def _score(x: Array, weights: Array, centre: Array, scale: Array) -> Array:
    return np.asarray((x - centre) / scale @ weights[:-1] + weights[-1])


def folds_of(clusters: Sequence[str]) -> list[NDArray[np.bool_]]:
    """Masks that deal whole documents into folds, drawn by hash."""
    of = {c: int(hashlib.sha256(c.encode()).hexdigest(), 16) for c in set(clusters)}
    place = {c: n % _FOLDS for n, c in enumerate(sorted(of, key=of.__getitem__))}
    given = np.array([place[c] for c in clusters])
    return [given == fold for fold in range(_FOLDS) if (given == fold).any()]


def _rounded(vectors: Sequence[Any] | NDArray[Any]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(round(float(v), 5) for v in vector) for vector in vectors)
