"""F-scores of an arm as means over questions, so that they are compared like any other metric.

Macro-F1 over the classes of closed-form questions and the F1 of abstaining are properties of all
answers together; no question has one. Each is a sum of ratios of counts, and its Taylor
linearisation (Woodruff, 1971; Binder, 1983) gives every question a value such that the mean is the
F-score exactly and the variance of that mean, by document, is the delta-method variance of the
F-score. Differences of arms, their intervals and tests then need nothing of their own.

    F_c = 2 TP_c / (P_c + G_c),   value_i = F + n (2 tp_ic - F_c (p_ic + g_ic)) / (P_c + G_c)

with TP_c, P_c and G_c the right, predicted and gold answers of class c, and lower case for those of
question i. Single values may lie outside [0, 1].
"""

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from domainlm.schema import Score

MACRO_F1 = "macro_f1"
ABSTENTION_F1 = "abstention_f1"
ABOVE_MAJORITY = "above_majority"
USUAL = 10
"""Questions that share their choices from which there is a usual answer."""


def primary(scores: Sequence[Score]) -> list[float]:
    """The primary metric of one arm on a slice, as one value per score, aligned.

    Closed-form questions that share their choices give macro-F1 (over the classes that are right
    somewhere, as scikit-learn counts them with `labels`); all others their own metric.
    """
    values = [s.metrics["primary"] for s in scores]
    families: dict[str, list[int]] = defaultdict(list)
    for i, score in enumerate(scores):
        if score.classified:
            families[score.classified.family].append(i)
    for places in families.values():
        for i, value in zip(places, _macro_f1([scores[i] for i in places]), strict=True):
            values[i] = value
    return values


def abstention(scores: Sequence[Score]) -> list[float]:
    """F1 of abstaining where there is no answer, as one value per score, aligned.

    Args:
        scores: of one arm, on answerable and unanswerable questions alike: to abstain where there
            is an answer costs precision.
    """
    gold = np.array([s.task == "unanswerable" for s in scores])
    said = np.array(
        [
            (s.outcome == "correct") if g else s.outcome == "abstained"
            for s, g in zip(scores, gold, strict=True)
        ]
    )
    return _linearised(gold, said).tolist()  # type: ignore[no-any-return]


def above_majority(scores: Sequence[Score]) -> tuple[list[float], list[str]]:
    """By how much closed-form answers are right more often than the class that is right most often,
    given every time: one value and one cluster per answer, where `USUAL` questions share choices.
    """
    families: dict[str, Counter[str]] = defaultdict(Counter)
    for score in scores:
        if score.classified:
            families[score.classified.family][score.classified.right] += 1
    usual = {f: c.most_common(1)[0][0] for f, c in families.items() if c.total() >= USUAL}
    values, clusters = [], []
    for score in scores:
        found = score.classified
        if found and found.family in usual:
            right = score.outcome == "correct"
            values.append(float(right) - float(found.right == usual[found.family]))
            clusters.append(score.cluster)
    return values, clusters


def _macro_f1(scores: Sequence[Score]) -> list[float]:
    pairs = [s.classified for s in scores if s.classified]
    right = np.array([p.right for p in pairs])
    said = np.array([p.said for p in pairs])
    classes = sorted({p.right for p in pairs})
    values = sum(_linearised(right == c, said == c) for c in classes) / len(classes)
    return values.tolist()  # type: ignore[union-attr,no-any-return]


def _linearised(gold: np.ndarray, said: np.ndarray) -> np.ndarray:
    """`(n,)` values whose mean is the F1 of `said` against `gold`; 0 where neither ever holds."""
    both = gold.sum() + said.sum()
    if not both:
        return np.zeros(len(gold))
    f1 = 2 * (gold & said).sum() / both
    members = gold.astype(float) + said
    return np.asarray(f1 + len(gold) * (2.0 * (gold & said) - f1 * members) / both)
