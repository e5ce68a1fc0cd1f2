"""Scores to summaries of arms and to the contrasts that were declared before looking.

Two families are corrected by Holm, each within its task. *Effects* ask what retrieval, tuning and
their combination do. *Selection* (task "all" only) compares each arm with the one that the dev
questions chose, and is what the verdict rests on.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain

import numpy as np

from domainlm import stats
from domainlm.errors import DataError
from domainlm.evaluation import fscores
from domainlm.schema import TASKS, Answer, ArmSummary, Contrast, Interval, Score

ALL = "all"
TEST = "test"
SINGLES = ("rag", "tuned")
COMBINATIONS = ("tuned+rag", "raft")
BEST_VERSUS = "best combination - best single"

Weights = Mapping[str, int]

EFFECTS: dict[str, Weights] = {
    "RAG effect": {"rag": 1, "base": -1},
    "tuning effect": {"tuned": 1, "base": -1},
    "interaction": {"tuned+rag": 1, "base": 1, "rag": -1, "tuned": -1},
    "raft - rag": {"raft": 1, "rag": -1},
    "raft - tuned": {"raft": 1, "tuned": -1},
    "raft - tuned+rag": {"raft": 1, "tuned+rag": -1},
}
"""The 2x2 factorial and the two ways to combine, as weights of arms. The interaction is positive
where retrieval and tuning together give more than the sum of their effects."""


def summarise(
    scores: Sequence[Score],
    answers: Sequence[Answer],
    costs: Sequence[float],
    *,
    splits: Sequence[str] = ("test_known", "test_new", TEST),
    peak_memory: Mapping[str, int] | None = None,
) -> list[ArmSummary]:
    """Summarise each arm on each task (and "all") of each split; empty slices are left out.

    Args:
        scores: Scores of any arms and splits.
        answers: The answers that were scored, in any order.
        costs: Dollars of each answer, aligned with `answers`.
        splits: Slices to make; "test" is both test sets.
        peak_memory: Bytes by arm.

    Raises:
        DataError: `costs` and `answers` differ in length, or a score has no answer.
    """
    if len(costs) != len(answers):
        raise DataError(
            f"there are {len(costs)} costs and {len(answers)} answers; give one per answer"
        )
    spent = {(a.arm, a.question_id): (a, c) for a, c in zip(answers, costs, strict=True)}
    for score in scores:
        if (score.arm, score.question_id) not in spent:
            raise DataError(
                f"score of {score.arm} on {score.question_id!r} has no answer among the "
                f"{len(answers)} given; pass the answers that were scored"
            )
    memory = peak_memory or {}
    summaries = []
    for arm in _arms(scores):
        for split in splits:
            every = [s for s in scores if s.arm == arm and _in(s, ALL, split)]
            for task in (*TASKS, ALL):
                part = [s for s in every if _in(s, task, split)]
                if part:
                    paired = [spent[s.arm, s.question_id] for s in part]
                    made = _summary(arm, task, split, part, paired, memory.get(arm, 0))
                    summaries.append(replace(made, metrics=made.metrics | _f_scores(every, task)))
    return summaries


def _f_scores(every: Sequence[Score], task: str) -> dict[str, Interval]:
    """What an arm scores as a whole on a task of a slice: `primary`, and F-scores by their name."""
    scored = [s for s in every if "primary" in s.metrics]
    whole = any(s.task == "unanswerable" for s in scored) and task in (ALL, "unanswerable")
    part = [s for s in scored if task in (ALL, s.task)]
    found: dict[str, Interval] = {}
    if part:
        values = fscores.primary(part)
        found["primary"] = stats.cluster_interval(values, [s.cluster for s in part])
        values, clusters = fscores.above_majority(part)
        if values:
            found[fscores.ABOVE_MAJORITY] = stats.cluster_interval(values, clusters)
        if task == "closed_form" and any(s.classified for s in part):
            found[fscores.MACRO_F1] = found["primary"]
    if whole:
        f1 = stats.cluster_interval(fscores.abstention(scored), [s.cluster for s in scored])
        found |= {fscores.ABSTENTION_F1: f1}
        found |= {"primary": f1} if task == "unanswerable" else {}
    return found


def with_costs(
    summaries: Sequence[ArmSummary],
    scores: Sequence[Score],
    answers: Sequence[Answer],
    costs: Sequence[float],
) -> list[ArmSummary]:
    """The same summaries under other prices.

    Args:
        summaries: As `summarise` made them.
        scores: The scores they were made of, others among them.
        answers: The answers that were scored, in any order.
        costs: Dollars of each answer, aligned with `answers`.
    """
    spent = {(a.arm, a.question_id): c for a, c in zip(answers, costs, strict=True)}
    made = []
    for s in summaries:
        total = sum(
            spent[x.arm, x.question_id]
            for x in scores
            if x.arm == s.arm and _in(x, s.task, s.split)
        )
        correct = s.outcomes["correct"]
        per_correct = total / correct if correct else None
        made.append(replace(s, cost_per_question_usd=total / s.n, cost_per_correct_usd=per_correct))
    return made


def best_arm(scores: Sequence[Score], arms: Sequence[str] | None = None) -> str | None:
    """The arm with the highest mean primary metric (ties: first by name); None without scores.

    Meant for dev scores: whoever picks the best on test has no test left.
    """
    scored = [s for s in scores if "primary" in s.metrics]
    means = {
        arm: np.mean(fscores.primary([s for s in scored if s.arm == arm]))
        for arm in _arms(scored)
        if arms is None or arm in arms
    }
    return min(means, key=lambda a: (-means[a], a)) if means else None


def contrasts(
    scores: Sequence[Score],
    *,
    margin: float,
    arms: Sequence[str] | None = None,
    dev: Sequence[Score] = (),
    metric: str = "primary",
    split: str = TEST,
    seed: int = 0,
) -> list[Contrast]:
    """The declared comparisons, on task "all" and on each task, over questions that all their arms
    answered.

    Args:
        scores: Scores; those outside `split` are ignored.
        margin: Equivalence margin in units of the metric.
        arms: Arms to compare; default those with scores. Comparisons of other arms are left out.
        dev: Dev scores, which choose the best single, the best combination and the arm that the
            selection family compares with. Without them those contrasts are left out.
        metric: The metric to compare.
        split: The slice to compare on.
        seed: Seed of Monte Carlo tests.

    Raises:
        DataError: `margin` is not positive, a score is not finite, or the arms share no question.
    """
    known = set(arms) if arms is not None else set(_arms(scores))
    effects = {name: w for name, w in EFFECTS.items() if known.issuperset(w)}
    dev = [s for s in dev if s.arm in known]
    single, combination = best_arm(dev, SINGLES), best_arm(dev, COMBINATIONS)
    if single and combination:
        effects[BEST_VERSUS] = {combination: 1, single: -1}
    best = best_arm(dev)
    others = sorted(known - {best}) if best else []
    selection = {f"{arm} - {best} (best on dev)": {arm: 1, str(best): -1} for arm in others}
    table = _table(scores, metric, split)
    answering = sorted({arm for row in table.values() for arm in row if arm in known})
    if len(answering) > 1 and all(len(known & row.keys()) < 2 for row in table.values()):
        raise DataError(
            f"{' and '.join(answering)} share none of {len(table)} {split} questions; let all arms "
            "answer the same ones"
        )
    found: list[Contrast] = []
    for task in (ALL, *TASKS):
        found += _family(effects, table, task, split, metric, margin, seed)
    return found + _family(selection, table, ALL, split, metric, margin, seed)


def pairwise(
    scores: Sequence[Score],
    family: Mapping[str, Weights],
    *,
    margin: float,
    metric: str = "primary",
    split: str = TEST,
    seed: int = 0,
) -> list[Contrast]:
    """Other comparisons than the declared ones, on task "all" and on each task, each task's family
    corrected by Holm; those without a common question are left out.

    Args:
        scores: Scores; those outside `split` are ignored.
        family: Name -> weights of arms (1 and -1).
        margin: Equivalence margin in units of the metric.
        metric: The metric to compare.
        split: The slice to compare on.
        seed: Seed of Monte Carlo tests.

    Raises:
        DataError: As for `contrasts`.
    """
    table = _table(scores, metric, split)
    return [
        c
        for task in (ALL, *TASKS)
        for c in _family(family, table, task, split, metric, margin, seed)
    ]


_Table = dict[str, dict[str, Score]]
"""question id -> arm -> score"""


def _table(scores: Sequence[Score], metric: str, split: str) -> _Table:
    table: _Table = {}
    for score in scores:
        if metric in score.metrics and _in(score, ALL, split):
            table.setdefault(score.question_id, {})[score.arm] = score
    return table


def _family(
    family: Mapping[str, Weights],
    table: _Table,
    task: str,
    split: str,
    metric: str,
    margin: float,
    seed: int,
) -> list[Contrast]:
    results: dict[str, stats.PairedResult] = {}
    for name, weights in family.items():
        first = next(iter(weights))
        shared = [row for row in table.values() if weights.keys() <= row.keys()]
        rows = [row for row in shared if task in (ALL, row[first].task)]
        if not rows:
            continue
        if task == "unanswerable" and metric == "primary":
            # To abstain where there is an answer costs precision.
            rows = shared
        columns = {a: _values([row[a] for row in rows], task, metric) for a in weights}
        plus, minus = (
            np.sum([columns[a] for a in weights if weights[a] == w], axis=0).tolist()
            for w in (1, -1)
        )
        clusters = [row[first].cluster for row in rows]
        results[name] = stats.paired_difference(plus, minus, clusters, margin, seed=seed)
    # The best combination against the best single may repeat a declared contrast: count it once.
    keys = {name: tuple(sorted(family[name].items())) for name in results}
    distinct = {keys[name]: result.p_value for name, result in results.items()}
    adjusted = dict(zip(distinct, stats.holm(list(distinct.values())), strict=True))
    return [
        _contrast(name, family[name], task, split, metric, result, adjusted[keys[name]], margin)
        for name, result in results.items()
    ]


def _values(scores: Sequence[Score], task: str, metric: str) -> list[float]:
    """The metric of one arm, as one value per score."""
    if metric != "primary":
        return [s.metrics[metric] for s in scores]
    return fscores.abstention(scores) if task == "unanswerable" else fscores.primary(scores)


def _contrast(
    name: str,
    weights: Weights,
    task: str,
    split: str,
    metric: str,
    result: stats.PairedResult,
    p_adjusted: float | None,
    margin: float,
) -> Contrast:
    sides = [" & ".join(sorted(a for a, w in weights.items() if w == sign)) for sign in (1, -1)]
    return Contrast(
        name=name,
        a=sides[0],
        b=sides[1],
        task=task,
        split=split,
        metric=metric,
        difference=result.difference,
        p_value=result.p_value,
        p_adjusted=p_adjusted,
        verdict=stats.verdict_word(result, p_adjusted, margin),
        detectable=result.detectable,
        n_questions=result.n_questions,
        n_documents=result.n_documents,
    )


def _summary(
    arm: str,
    task: str,
    split: str,
    scores: Sequence[Score],
    paired: Sequence[tuple[Answer, float]],
    peak_memory: int,
) -> ArmSummary:
    names = sorted(set(chain.from_iterable(s.metrics for s in scores)))
    metrics = {}
    for name in names:
        having = [s for s in scores if name in s.metrics]
        metrics[name] = stats.cluster_interval(
            [s.metrics[name] for s in having], [s.cluster for s in having]
        )
    outcomes = Counter(s.outcome for s in scores)
    latencies = [a.latency_s for a, _ in paired]
    total_usd = float(sum(cost for _, cost in paired))
    correct = outcomes["correct"]
    return ArmSummary(
        arm=arm,
        task=task,
        split=split,
        n=len(scores),
        metrics=metrics,
        outcomes={o: outcomes[o] for o in ("correct", "wrong", "abstained", "failed")},
        latency_p50_s=float(np.quantile(latencies, 0.5)),
        latency_p95_s=float(np.quantile(latencies, 0.95)),
        tokens_in=float(np.mean([a.tokens_in for a, _ in paired])),
        tokens_out=float(np.mean([a.tokens_out for a, _ in paired])),
        cost_per_question_usd=total_usd / len(scores),
        cost_per_correct_usd=total_usd / correct if correct else None,
        peak_memory_bytes=peak_memory,
    )


def _in(score: Score, task: str, split: str) -> bool:
    inside = score.split in ("test_known", "test_new") if split == TEST else score.split == split
    return inside and task in (ALL, score.task)


def _arms(scores: Sequence[Score]) -> list[str]:
    return list(dict.fromkeys(s.arm for s in scores))
