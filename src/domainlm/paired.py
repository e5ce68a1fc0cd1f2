"""Any two sets of answers on the questions they share: paired, by document.

Runs, pinned runs and external systems all become a `Side`. Only test questions count, and only
those with the same text and the same gold on both sides; what was left out is said.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from domainlm.artifacts import digest
from domainlm.errors import ConfigError, DataError
from domainlm.evaluation import summary
from domainlm.evaluation.tasks import clusters_of
from domainlm.schema import Contrast, Question, RunResult, Score, Task, VerdictWord
from domainlm.stats import MIN_DOCUMENTS

TEST_SPLITS = ("test_known", "test_new")


@dataclass(frozen=True, slots=True)
class Asked:
    """A question as it was scored: digests of its text and of its gold, and its documents."""

    text: str
    gold: str
    task: Task
    documents: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Side:
    """One set of answers, scored: test questions by id and the scores of all arms."""

    name: str
    asked: dict[str, Asked]
    scores: tuple[Score, ...]
    ship: str = ""

    @property
    def arms(self) -> tuple[str, ...]:
        """Arms in the order of their scores."""
        return tuple(dict.fromkeys(s.arm for s in self.scores))


@dataclass(frozen=True, slots=True)
class Pair:
    """An arm of each side: how they differ, and the questions that only one answered rightly."""

    a: str
    b: str
    contrasts: tuple[Contrast, ...]
    """Over all tasks first, then by task."""
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]

    @property
    def whole(self) -> Contrast:
        """The comparison over all tasks."""
        return self.contrasts[0]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two sides on their common questions."""

    a: str
    b: str
    metric: str
    margin: float
    n_questions: int
    n_documents: int
    pairs: tuple[Pair, ...]
    notes: tuple[str, ...]


def asked_of(questions: Sequence[Question]) -> dict[str, Asked]:
    """Questions by id, as far as a comparison has to know them."""
    return {
        q.id: Asked(
            digest(" ".join(q.text.split()), q.choices),
            digest(q.references, q.task),
            q.task,
            q.doc_ids or q.scope,
        )
        for q in questions
    }


def side_of(result: RunResult, name: str = "") -> Side:
    """A run as one side."""
    test = [q for q in result.questions if q.split in TEST_SPLITS]
    scores = tuple(s for s in result.scores if s.split in TEST_SPLITS)
    return Side(name or result.name, asked_of(test), scores, result.verdict.ship)


def common(a: Side, b: Side) -> tuple[list[str], list[str]]:
    """Ids of the questions that both sides answered and scored alike, and what was left out.

    Raises:
        DataError: there is none.
    """
    shared = [q for q in a.asked if q in b.asked]
    same = [q for q in shared if a.asked[q].text == b.asked[q].text]
    alike = [q for q in same if a.asked[q].gold == b.asked[q].gold]
    notes = []
    if len(same) < len(shared):
        notes.append(
            f"{_questions(len(shared) - len(same))} left out: the same id, but another text."
        )
    if len(alike) < len(same):
        notes.append(
            f"{_questions(len(same) - len(alike))} left out: the right answers were changed in "
            "between; `domainlm score` holds the older answers against the new ones."
        )
    for side, other in ((a, b), (b, a)):
        extra = len(side.asked) - len(shared)
        if extra:
            notes.append(f"{_questions(extra)} only in {side.name}, not in {other.name}.")
    if not alike:
        why = f"; {notes[0]}" if notes and shared else ""
        raise DataError(
            f"{a.name} has {_questions(len(a.asked))} and {b.name} {len(b.asked)}, and none is "
            f"common to both, so nothing can be compared{why}"
        )
    return alike, notes


def compare(
    a: Side,
    b: Side,
    *,
    margin: float,
    arms: Sequence[tuple[str, str]] = (),
    metric: str = "primary",
) -> Comparison:
    """Compare arms of two sides; differences read `a - b`, corrected by Holm over the pairs.

    Args:
        a: One side.
        b: The other.
        margin: Differences smaller than this do not matter.
        arms: Pairs of an arm of `a` and an arm of `b`; by default see `usual_pairs`.
        metric: Any metric that both scored.

    Raises:
        ConfigError: a side has no such arm.
        DataError: no question is common, or the metric was not measured on any.
    """
    wanted = list(arms) or usual_pairs(a, b)
    for side, n in ((a, 0), (b, 1)):
        unknown = sorted({pair[n] for pair in wanted} - set(side.arms))
        if unknown:
            raise ConfigError(
                f"{side.name} has no arm {', '.join(unknown)}; it has {', '.join(side.arms)}"
            )
    ids, notes = common(a, b)
    clusters = documents_of(a, ids)
    left, right = (a.name, b.name) if a.name != b.name else (f"{a.name} (A)", f"{b.name} (B)")
    scores = [
        replace(s, arm=label(mark, s.arm), cluster=clusters[s.question_id])
        for mark, side in ((left, a), (right, b))
        for s in side.scores
        if s.question_id in clusters
    ]
    classified = [
        {s.question_id for s in side.scores if s.classified and s.question_id in clusters}
        for side in (a, b)
    ]
    if classified[0] != classified[1]:
        # Macro-F1 on one side and accuracy on the other would not be the same metric.
        scores = [replace(s, classified=None) for s in scores]
        notes.append(
            "Closed-form answers are compared by accuracy, since one side was scored by an earlier "
            "version; `domainlm score` brings it up to date."
        )
    labels = [(label(left, x), label(right, y)) for x, y in wanted]
    family = {f"{x} - {y}": {x: 1, y: -1} for x, y in labels}
    found = summary.pairwise(scores, family, margin=margin, metric=metric)
    outcomes = {(s.arm, s.question_id): s.outcome for s in scores}
    pairs = []
    for (x, y), name in zip(labels, family, strict=True):
        own = tuple(c for c in found if c.name == name)
        if not own:
            raise DataError(
                f"{name} cannot be compared: no common question has the metric {metric!r} on both "
                "sides; choose another with --metric"
            )
        both = {q for q in ids if (x, q) in outcomes and (y, q) in outcomes}
        right_x, right_y = ({q for q in both if outcomes[arm, q] == "correct"} for arm in (x, y))
        only_x, only_y = sorted(right_x - right_y), sorted(right_y - right_x)
        pairs.append(Pair(x, y, own, tuple(only_x), tuple(only_y)))
    documents = len(set(clusters.values()))
    if documents < MIN_DOCUMENTS:
        notes.insert(
            0,
            f"The {_questions(len(ids))} come from {documents} documents; below {MIN_DOCUMENTS} "
            "nothing is decided.",
        )
    return Comparison(
        a.name, b.name, metric, margin, len(ids), documents, tuple(pairs), tuple(notes)
    )


def label(side: str, arm: str) -> str:
    """An arm of a side; an external system is its only arm."""
    return side if side == arm else f"{side} {arm}"


def usual_pairs(a: Side, b: Side) -> list[tuple[str, str]]:
    """Arms of the same name; where there is none, what each side ships or its only arm, and all
    arms of the other where that is not known.
    """
    same = [(arm, arm) for arm in a.arms if arm in b.arms]
    if same:
        return same
    lefts, rights = ([s.ship] if s.ship in s.arms else list(s.arms) for s in (a, b))
    if len(a.arms) == 1 or len(b.arms) == 1:
        # An external system meets every arm of a run.
        lefts, rights = list(a.arms), list(b.arms)
    return [(x, y) for x in lefts for y in rights]


def sentence(pair: Pair, margin: float) -> str:
    """A comparison in words."""
    c = pair.whole
    d = c.difference
    gap = f"{100 * abs(d.value):.1f} points"
    between = "" if d.low is None or d.high is None else _between(d.low, d.high)
    tail = f"{between}, {_questions(c.n_questions)}, {c.n_documents} documents"
    words: dict[VerdictWord, str] = {
        "better": f"{pair.a} is better than {pair.b} by {gap}",
        "worse": f"{pair.a} is worse than {pair.b} by {gap}",
        "equivalent": f"{pair.a} and {pair.b} are equivalent: less than {100 * margin:.3g} points "
        f"apart ({100 * d.value:+.1f})",
        "undecided": f"{pair.a} against {pair.b} is undecided ({100 * d.value:+.1f} points)",
    }
    said = f"{words[c.verdict]}{tail}"
    if c.verdict == "undecided" and c.detectable is not None and c.n_documents >= MIN_DOCUMENTS:
        if math.isfinite(c.detectable) and c.detectable <= 1:
            said += f"; only a gap of {100 * c.detectable:.1f} points would have been found"
    return said + "."


def documents_of(side: Side, ids: Sequence[str]) -> dict[str, str]:
    """What inference resamples by, over these questions alone."""
    return clusters_of([Question(q, "", doc_ids=side.asked[q].documents) for q in ids])


def _between(low: float, high: float) -> str:
    return f", 95 % interval {100 * low:+.1f} to {100 * high:+.1f}"


def _questions(n: int) -> str:
    return f"{n:,} question" if n == 1 else f"{n:,} questions"
