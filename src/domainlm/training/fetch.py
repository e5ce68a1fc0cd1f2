"""Whether to show the model what was found: a small policy, trained by policy gradient.

Passages cost prompt tokens. Where the weights know the answer, or search found nothing that fits,
they buy nothing, and a small model is even misled. A logistic policy over seven signs decides for
every question between its prompt with passages and the closed-book one of the same weights. Its
reward is the quality of the answer less the price of the prompt (Kulkarni et al., 2401.06800, who
saved about a third of the tokens of a chat at equal quality).

Two things differ from the paper. It decides before the search; here the search comes first, for it
costs no prompt tokens, and how well the best passage fits is the strongest sign there is. And its
reward is known for the action that was taken; here dev questions are answered both ways, so the
gradient of the expected reward is exact instead of sampled.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.optimize as _optimize
from numpy.typing import NDArray
from scipy.special import expit

from domainlm import stats
from domainlm.errors import DataError
from domainlm.evaluation.selective import folds_of
from domainlm.graph.entities import mentions
from domainlm.rag.citations import words
from domainlm.rag.pipeline import Gate
from domainlm.rag.select import vectors_of
from domainlm.rag.stages import Resources
from domainlm.schema import ByAction, FetchPolicy, Passage, Question

Array = NDArray[np.float64]

SIGNS = (
    "likeness of the best passage",
    "its lead over the last one",
    "share of the question's words in the passages",
    "words in the passages",
    "likeness to the nearest train question",
    "words in the question",
    "names in the question",
)
NEVER, ALWAYS = 0, 1
"""The actions, as columns."""
_ENTROPY = 0.1
_RIDGE = 0.01


def signs(question: Question, passages: Sequence[Passage], resources: Resources) -> Array:
    """What is known before the prompt is filled, `(7,)` in the order of `SIGNS`."""
    own = words(question.text)
    shown = " ".join(p.text for p in passages)
    vector = resources.index.embed_queries([question.text])[0]
    fits = vectors_of(passages, resources) @ vector if passages else np.zeros(1)
    known = _train_vectors(resources)
    return np.array(
        [
            fits.max(),
            fits.max() - fits.min(),
            len(own & words(shown)) / max(len(own), 1),
            math.log1p(len(shown.split())),
            float((known @ vector).max()) if len(known) else 0.0,
            math.log1p(len(question.text.split())),
            math.log1p(len({m.entity for m in mentions(question.text)})),
        ]
    )


def gate(policy: FetchPolicy, resources: Resources) -> Gate:
    """The policy as it decides for an arm.

    Raises:
        DataError: it was learned from other signs than this version reads.
    """
    if len(policy.centre) != len(SIGNS):
        raise DataError(
            f"what {policy.arm} learned to fetch has {len(policy.centre)} signs, this version "
            f"reads {len(SIGNS)}; run the benchmark again"
        )
    learned = tuple(np.array(v) for v in (policy.weights, policy.centre, policy.scale))

    def fetches(question: Question, passages: Sequence[Passage]) -> bool:
        return bool(_worth(signs(question, passages, resources), *learned) >= 0)

    return fetches


def learn(
    arm: str, x: Array, quality: Array, tokens: Array, clusters: Sequence[str], price: float
) -> FetchPolicy | None:
    """Learn from questions that were answered both ways when passages are worth their tokens.

    The policy is judged on documents that its weights did not see, and kept only where its reward
    beats both always and never showing passages: the lower 95 % bound of either gain, paired by
    document, is above zero.

    Args:
        arm: Its name.
        x: `(n, d)` signs.
        quality: `(n, 2)` scores in [0, 1], closed book and with passages.
        tokens: `(n, 2)` prompt tokens, likewise.
        clusters: `(n,)` document of each question.
        price: Points of quality per 1,000 prompt tokens.

    Returns:
        None if all questions are about one document.
    """
    reward = quality - price / 100 * tokens / 1_000
    gain = reward[:, ALWAYS] - reward[:, NEVER]
    folds = folds_of(clusters)
    if len(folds) < 2:
        return None
    fetched = np.empty(len(gain), bool)
    for fold in folds:
        fetched[fold] = _worth(x[fold], *_fit(x[~fold], gain[~fold])) >= 0
    action = np.where(fetched, ALWAYS, NEVER)
    row = np.arange(len(gain))
    over_always, over_never = (
        stats.one_sided(reward[row, action].tolist(), reward[:, other].tolist(), clusters)
        for other in (ALWAYS, NEVER)
    )
    enough = over_always.n_documents >= stats.MIN_DOCUMENTS
    lows = [b.difference.low for b in (over_always, over_never)]
    weights, centre, scale = _fit(x, gain)

    def means(values: Array) -> ByAction:
        always, never, learned = values[:, ALWAYS], values[:, NEVER], values[row, action]
        return ByAction(*(float(v.mean()) for v in (always, never, learned)))

    return FetchPolicy(
        arm=arm,
        price=price,
        centre=tuple(map(float, centre)),
        scale=tuple(map(float, scale)),
        weights=tuple(map(float, weights)),
        kept=enough and all(low is not None and low > 0 for low in lows),
        fetched=float(fetched.mean()),
        quality=means(quality),
        tokens=means(tokens),
        over_always=over_always.difference,
        over_never=over_never.difference,
        n_documents=over_always.n_documents,
    )


def objective(w: Array, z: Array, gain: Array) -> tuple[float, Array]:
    """What is minimised, and its gradient `(d,)`: minus the expected reward over never fetching and
    the policy's entropy, and a ridge on all weights but the bias.

    With both rewards known, `mean(pi (1 - pi) gain z)` is the policy gradient itself, which
    REINFORCE estimates from one action.

    Args:
        w: `(d,)` weights; fetching has the probability `pi = sigmoid(z w)`.
        z: `(n, d)` standardised signs with a column of ones.
        gain: `(n,)` reward with passages less reward without.
    """
    logit = z @ w
    pi = expit(logit)
    entropy = np.logaddexp(0, logit) - pi * logit
    value = (pi * gain + _ENTROPY * entropy).mean() - _RIDGE * w[:-1] @ w[:-1]
    gradient = z.T @ (pi * (1 - pi) * (gain - _ENTROPY * logit)) / len(gain)
    gradient[:-1] -= 2 * _RIDGE * w[:-1]
    return -float(value), -gradient


def _fit(x: Array, gain: Array) -> tuple[Array, Array, Array]:
    """Weights (the last is the bias) of the standardised signs, their centre and scale."""
    centre, scale = x.mean(axis=0), x.std(axis=0)
    # A sign that never varies says nothing, and must not blow up on a stray value later.
    scale = np.where(scale > 1e-9, scale, 1e12)
    z = np.c_[(x - centre) / scale, np.ones(len(x))]
    # Entropy and ridge weigh the same, whatever the size of rewards.
    unit = gain / max(float(np.sqrt((gain**2).mean())), 1e-12)
    found: Any = _optimize.minimize(
        objective, np.zeros(z.shape[1]), args=(z, unit), jac=True, method="L-BFGS-B"
    )
    return np.asarray(found.x), centre, scale


def _worth(x: Array, weights: Array, centre: Array, scale: Array) -> Array:
    """Log-odds of fetching, `(n,)`; at 0 passages are shown."""
    return np.asarray((x - centre) / scale @ weights[:-1] + weights[-1])


def _train_vectors(resources: Resources) -> NDArray[np.float32]:
    """Vectors of the train questions, `(n, d)`, embedded once."""
    key = "fetch", resources.index.embedder.name
    if key not in resources.cache:
        asked = [q.text for q in resources.examples]
        resources.cache[key] = resources.embedder.embed(asked, "query")
    return resources.cache[key]  # type: ignore[no-any-return]
