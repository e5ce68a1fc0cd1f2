"""A judge must earn trust: how far does it agree with people, where does it err, is it swayed?

A judge is a model with a prompt; its scores and its preferences are measured apart. Until it has
met people on enough of the same items, and the lower bound of Krippendorff's alpha clears the
threshold, nothing that it says trains anything. Its measured errors weigh what it says.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from domainlm.evaluation.agreement import Level, cohen_kappa, gwet_ac1, krippendorff_alpha
from domainlm.evaluation.calibration import corrected_share
from domainlm.feedback.opinions import BAD, GOOD, Grade, Preference, grades, preferences
from domainlm.schema import FeedbackEvent, Interval
from domainlm.stats import wilson

TRUST_ALPHA = 0.667
"""Lower bound of alpha from which a judge may train: below it Krippendorff (Content Analysis, 2004,
p. 241) does not draw even tentative conclusions; .8 is his customary demand."""
TRUST_ITEMS = 50
"""Items that people and judge must both have seen."""
MAX_FLIP = 0.49
"""DPO's label smoothing must stay below one half."""

Mode = Literal["score", "preference"]
JudgeKey = tuple[str, str, Mode]
"""Model, prompt digest, and what it gives."""
ItemKey = tuple[str, ...]
_NUMBER = {"a": -1.0, "tie": 0.0, "b": 1.0}


@dataclass(frozen=True, slots=True)
class JudgeReport:
    """What one judge is worth.

    `alpha`, `kappa` and `ac1` are its agreement with the majority of people on `n` items, `people`
    the agreement of people with each other, which no judge need exceed. For scores, `sensitivity`
    is the share of good answers that it calls good, `specificity` that of bad ones it calls bad;
    for preferences, `flip` is how often it prefers the answer that people find worse, `swap` how
    often both orders get the same choice, `first` how often it chooses what is shown first.
    """

    model: str
    prompt_digest: str
    mode: Mode
    n: int
    alpha: Interval | None
    kappa: Interval | None
    ac1: Interval | None
    people: Interval | None
    sensitivity: Interval | None = None
    specificity: Interval | None = None
    flip: Interval | None = None
    swap: Interval | None = None
    first: Interval | None = None
    trusted: bool = False
    reason: str = ""

    @property
    def key(self) -> JudgeKey:
        """What identifies the judge."""
        return (self.model, self.prompt_digest, self.mode)

    @property
    def weight(self) -> float:
        """What one word of the judge counts, a person's being 1: Youden's informedness, the
        factor by which its noise shrinks any contrast (Natarajan et al., NIPS 2013).
        """
        if self.mode == "preference":
            return max(0.0, 1.0 - 2.0 * self.smoothing)
        if self.sensitivity is None or self.specificity is None:
            return 0.0
        return max(0.0, self.sensitivity.value + self.specificity.value - 1.0)

    @property
    def smoothing(self) -> float:
        """Label smoothing for DPO: the chance that a preference points the wrong way (robust DPO,
        Chowdhury et al., 2403.00409).
        """
        return min(MAX_FLIP, self.flip.value) if self.flip else MAX_FLIP


def judge_reports(
    grades: Sequence[Grade],
    preferences: Sequence[Preference],
    *,
    threshold: float = TRUST_ALPHA,
    items: int = TRUST_ITEMS,
) -> list[JudgeReport]:
    """A report for every judge that said anything, by model, prompt and mode."""
    found = []
    for key in sorted({k for g in grades if (k := judge_key(g))}):
        found.append(_score_report(key, grades, threshold, items))
    for key in sorted({k for p in preferences if (k := judge_key(p))}):
        found.append(_preference_report(key, preferences, threshold, items))
    return found


def reports_of(events: Sequence[FeedbackEvent], trust: float | None = None) -> list[JudgeReport]:
    """How far each judge in a log agrees with people, and whether the lower bound of its alpha
    reaches `trust` (by default `TRUST_ALPHA`).
    """
    threshold = TRUST_ALPHA if trust is None else trust
    return judge_reports(grades(events), preferences(events), threshold=threshold)


@dataclass(frozen=True, slots=True)
class ArmShare:
    """How many of an arm's answers a judge calls good, and the share corrected for its errors;
    `corrected` is None for a judge no better than chance.
    """

    model: str
    prompt_digest: str
    arm: str
    called: Interval
    corrected: Interval | None


def arm_shares(grades: Sequence[Grade], reports: Sequence[JudgeReport]) -> list[ArmShare]:
    """What each judge of scores says of each arm, corrected by its measured sensitivity and
    specificity (Rogan & Gladen 1978).

    They count as the same for all arms; where people graded enough answers of an arm,
    `ppi.powered_mean` does without that. Judges that met no good or no bad answer are left out.
    """
    found = []
    for r in reports:
        if r.sensitivity is None or r.specificity is None:
            continue
        arms: dict[ItemKey, set[str]] = defaultdict(set)
        for g in grades:
            if judge_key(g) == r.key:
                arms[answer_key(g)].add(g.answer.arm)
        said: dict[str, list[bool]] = defaultdict(list)
        for item, good in judge_grades(r.key, grades).items():
            for arm in arms[item] - {""}:
                said[arm].append(good)
        for arm, calls in sorted(said.items()):
            k, n = sum(calls), len(calls)
            share = corrected_share(k, n, r.sensitivity, r.specificity)
            found.append(ArmShare(r.model, r.prompt_digest, arm, wilson(k, n), share))
    return found


def people_grades(grades: Iterable[Grade]) -> dict[ItemKey, bool]:
    """Answer -> whether the majority of people call it good; a draw is left out."""
    votes: dict[ItemKey, list[bool]] = defaultdict(list)
    for g in grades:
        if g.actor.kind == "person" and g.good is not None:
            votes[answer_key(g)].append(g.good)
    return {k: sum(v) * 2 > len(v) for k, v in votes.items() if sum(v) * 2 != len(v)}


def people_preferences(preferences: Iterable[Preference]) -> dict[ItemKey, str]:
    """Pair of answers -> "a", "b" or "tie" as the most people say; a draw counts as a tie."""
    votes: dict[ItemKey, list[str]] = defaultdict(list)
    for p in preferences:
        if p.actor.kind == "person":
            votes[pair_key(p)].append(p.outcome)
    return {k: _most(v) for k, v in votes.items()}


def people_agreement(
    grades: Iterable[Grade], preferences: Iterable[Preference]
) -> dict[str, Interval | None]:
    """Krippendorff's alpha among people: of good and bad, and of preferences with ties between."""
    graded = (
        (answer_key(g), g.actor.name, float(g.good))
        for g in grades
        if g.actor.kind == "person" and g.good is not None
    )
    preferred = (
        (pair_key(p), p.actor.name, _NUMBER[p.outcome])
        for p in preferences
        if p.actor.kind == "person"
    )
    return {
        "grades": _among_people(graded, "nominal"),
        "preferences": _among_people(preferred, "ordinal"),
    }


def judge_grades(key: JudgeKey, grades: Iterable[Grade]) -> dict[ItemKey, bool]:
    """Answer -> whether the judge calls it good, by its mean score over seeds."""
    scores: dict[ItemKey, list[float]] = defaultdict(list)
    for g in grades:
        if judge_key(g) == key:
            scores[answer_key(g)].append(g.value)
    means = {k: sum(v) / len(v) for k, v in scores.items()}
    return {k: m >= GOOD for k, m in means.items() if m >= GOOD or m <= BAD}


def judge_preferences(key: JudgeKey, preferences: Iterable[Preference]) -> dict[ItemKey, str]:
    """Pair of answers -> "a", "b" or "tie", for pairs shown in both orders; where the order changes
    the choice it is a tie (Zheng et al., 2306.05685).
    """
    orders = _orders(key, preferences)
    return {
        k: choices["a"] if choices["a"] == choices["b"] else "tie"
        for k, choices in orders.items()
        if len(choices) == 2
    }


def _score_report(
    key: JudgeKey, grades: Sequence[Grade], threshold: float, items: int
) -> JudgeReport:
    people, judge = people_grades(grades), judge_grades(key, grades)
    shared = sorted(people.keys() & judge.keys())
    hits = [judge[k] for k in shared if people[k]]
    passes = [not judge[k] for k in shared if not people[k]]
    report = JudgeReport(
        *key,
        len(shared),
        *_agreement(shared, [(float(people[k]), float(judge[k])) for k in shared], "nominal"),
        people_agreement(grades, ())["grades"],
        sensitivity=_share(sum(hits), len(hits)),
        specificity=_share(sum(passes), len(passes)),
    )
    return _decided(report, threshold, items)


def _preference_report(
    key: JudgeKey, preferences: Sequence[Preference], threshold: float, items: int
) -> JudgeReport:
    people, judge = people_preferences(preferences), judge_preferences(key, preferences)
    shared = sorted(people.keys() & judge.keys())
    strict = [k for k in shared if "tie" not in (people[k], judge[k])]
    both = [c for c in _orders(key, preferences).values() if len(c) == 2]
    chosen = [p for p in preferences if judge_key(p) == key and p.outcome != "tie" and p.first]
    report = JudgeReport(
        *key,
        len(shared),
        *_agreement(shared, [(_NUMBER[people[k]], _NUMBER[judge[k]]) for k in shared], "ordinal"),
        people_agreement((), preferences)["preferences"],
        flip=_share(sum(people[k] != judge[k] for k in strict), len(strict)),
        swap=_share(sum(c["a"] == c["b"] for c in both), len(both)),
        first=_share(sum(p.outcome == p.first for p in chosen), len(chosen)),
    )
    return _decided(report, threshold, items)


def _decided(report: JudgeReport, threshold: float, items: int) -> JudgeReport:
    alpha, reason = report.alpha, ""
    if report.n < items:
        reason = f"met people on {report.n} items, and {items} are needed"
    elif alpha is None or alpha.low is None:
        reason = "its agreement with people has no interval: they say nearly the same of all"
    elif alpha.low < threshold:
        reason = (
            f"agrees with people at alpha {alpha.value:.2f}, at least {alpha.low:.2f}; "
            f"{threshold:g} is needed"
        )
    elif report.weight == 0:
        reason = "its errors leave nothing to learn from"
    return dataclasses.replace(report, trusted=not reason, reason=reason)


def _agreement(
    shared: Sequence[ItemKey], pairs: Sequence[tuple[float, float]], level: Level
) -> tuple[Interval | None, Interval | None, Interval | None]:
    """Alpha, kappa and AC1 of people and judge, resampled by question."""
    if not pairs:
        return None, None, None
    ratings, clusters = np.asarray(pairs), [k[0] for k in shared]
    return (
        krippendorff_alpha(ratings, level=level, clusters=clusters),
        cohen_kappa(list(ratings[:, 0]), list(ratings[:, 1]), clusters=clusters),
        gwet_ac1(ratings, clusters=clusters),
    )


def _share(k: int, n: int) -> Interval | None:
    return wilson(k, n) if n else None


def _among_people(votes: Iterable[tuple[ItemKey, str, float]], level: Level) -> Interval | None:
    """Krippendorff's alpha of the people who said something about the same items."""
    table: dict[ItemKey, dict[str, float]] = defaultdict(dict)
    for item, name, value in votes:
        table[item][name] = value
    names = sorted({n for row in table.values() for n in row})
    keys = sorted(k for k, row in table.items() if len(row) > 1)
    if not keys:
        return None
    ratings = [[table[k].get(n, np.nan) for n in names] for k in keys]
    return krippendorff_alpha(ratings, level=level, clusters=[k[0] for k in keys])


def _orders(key: JudgeKey, preferences: Iterable[Preference]) -> dict[ItemKey, dict[str, str]]:
    """Pair -> which was shown first -> the choice of most seeds."""
    said: dict[ItemKey, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for p in preferences:
        if judge_key(p) == key and p.first:
            said[pair_key(p)][p.first].append(p.outcome)
    return {k: {f: _most(v) for f, v in orders.items()} for k, orders in said.items()}


def judge_key(opinion: Grade | Preference) -> JudgeKey | None:
    """The judge whose opinion it is; None for a person's."""
    if opinion.actor.kind != "judge":
        return None
    mode: Mode = "score" if isinstance(opinion, Grade) else "preference"
    return (opinion.actor.name, opinion.actor.prompt_digest, mode)


def answer_key(g: Grade) -> ItemKey:
    """What two opinions of one answer share."""
    return (g.question_id, g.rubric, g.answer.text_sha256)


def pair_key(p: Preference) -> ItemKey:
    """What two opinions of one pair share."""
    return (p.question_id, p.rubric, p.a.text_sha256, p.b.text_sha256)


def _most(choices: Sequence[str]) -> str:
    """The most frequent choice; a draw is a tie."""
    counts = Counter(choices).most_common()
    return counts[0][0] if len(counts) == 1 or counts[0][1] > counts[1][1] else "tie"
