"""A gate for CI: may this run take the place of a pinned one?

Each arm is held against the pinned run on the questions that both share, by document: quality may
not fall, wrong answers may not rise, and where limits are given neither may cost or seconds. A
condition passes if the loss is shown to stay below its limit, fails if there is shown to be a loss
(and that is not shown to be small), and is open otherwise; a requirement of the configuration
fails if it is shown to be missed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from domainlm import paired
from domainlm.errors import ConfigError, DataError
from domainlm.evaluation import gate as tests
from domainlm.history import ArmRecord, Mark, Snapshot
from domainlm.schema import Check
from domainlm.stats import MIN_DOCUMENTS

State = Literal["passed", "failed", "open"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Losses that may remain possible: shares of the score (`drop`), and of the pinned run's mean
    cost and seconds, which None leaves unchecked. `strict` fails what is open.
    """

    drop: float = 0.05
    dearer: float | None = None
    slower: float | None = None
    strict: bool = False


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition of one arm, its threshold in words, and what was found."""

    arm: str
    name: str
    threshold: str
    state: State
    found: str


@dataclass(frozen=True, slots=True)
class Report:
    """Whether a run may pass, and why."""

    run: str
    pinned: str
    passed: bool
    strict: bool
    conditions: tuple[Condition, ...]
    notes: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """The outcome in one sentence."""
        failed = [c for c in self.conditions if c.state == "failed"]
        left = [c for c in self.conditions if c.state == "open"]
        against = f"the pinned run {self.pinned}"
        if failed or (left and self.strict):
            first, *others = failed or left
            more = f" (and {len(others)} more)" if others else ""
            verb = "fails against" if failed else "is not shown to keep up with"
            return f"Run {self.run} {verb} {against}: {first.arm}, {first.found}{more}."
        stay = {0: "", 1: "; 1 condition stays open"}.get(
            len(left), f"; {len(left)} conditions stay open"
        )
        return f"Run {self.run} passes against {against}{stay}."


def gate(
    new: Snapshot, old: Snapshot, limits: Limits | None = None, arms: Sequence[str] = ()
) -> Report:
    """Hold a run against a pinned one.

    Args:
        new: The run.
        old: The pinned run.
        limits: Thresholds.
        arms: Arms to check; by default what the pinned run ships, else all that both have.

    Raises:
        ConfigError: a limit is out of range, or a run lacks an arm.
        DataError: the runs share no arm or no question.
    """
    limits = limits or Limits()
    for name, value, most, unit in (
        ("drop of quality", limits.drop, 1, "points"),
        ("rise of cost", limits.dearer, 10, "%"),
        ("rise of time", limits.slower, 10, "%"),
    ):
        if value is not None and not 0 < value <= most:
            raise ConfigError(
                f"the largest {name} is {100 * value:g} {unit}; give more than 0 and at most "
                f"{100 * most}"
            )
    chosen = _arms(new, old, arms)
    ids, notes = paired.common(new.side(f"run {new.name}"), old.side(f"pinned run {old.name}"))
    clusters = paired.documents_of(new.side(), ids)
    documents = len(set(clusters.values()))
    if documents < MIN_DOCUMENTS:
        notes.insert(
            0,
            f"The {len(ids)} common questions come from {documents} documents; below "
            f"{MIN_DOCUMENTS} nothing is decided.",
        )
    conditions: list[Condition] = []
    for arm in chosen:
        first, second = old.arm(arm), new.arm(arm)
        assert first is not None and second is not None
        held = _Held(first, second, ids, clusters)
        conditions.append(held.quality(limits.drop))
        conditions.append(held.wrong(limits.drop))
        if limits.dearer is not None:
            conditions.append(held.amount("cost", "dollars a question", _cost, limits.dearer))
        if limits.slower is not None:
            conditions.append(held.amount("time", "seconds a question", _seconds, limits.slower))
        conditions += [
            Condition(arm, "requirement", missed, "failed", f"it is shown to miss {missed}")
            for missed in second.missed
        ]
    bad = {"failed", "open"} if limits.strict else {"failed"}
    passed = not any(c.state in bad for c in conditions)
    return Report(new.name, old.name, passed, limits.strict, tuple(conditions), tuple(notes))


def _arms(new: Snapshot, old: Snapshot, wanted: Sequence[str]) -> list[str]:
    for made in (new, old):
        missing = [a for a in wanted if made.arm(a) is None]
        if missing:
            has = ", ".join(r.arm for r in made.arms)
            raise ConfigError(f"run {made.name} has no arm {', '.join(missing)}; it has {has}")
    if wanted:
        return list(dict.fromkeys(wanted))
    both = [r.arm for r in old.arms if new.arm(r.arm) is not None]
    if old.ship in both:
        return [old.ship]
    has = ", ".join(r.arm for r in new.arms) or "no arms"
    if old.arm(old.ship) is not None:
        raise DataError(
            f"the pinned run {old.name} ships {old.ship}, but run {new.name} has {has}; build that "
            "arm or name others with --arm"
        )
    if not both:
        raise DataError(
            f"run {new.name} has {has}, none of which the pinned run {old.name} has; gate runs of "
            "the same arms"
        )
    return both


class _Held:
    """One arm of both runs on the common questions."""

    def __init__(
        self, old: ArmRecord, new: ArmRecord, ids: Sequence[str], clusters: dict[str, str]
    ) -> None:
        self._arm, self._ids, self._clusters = old.arm, ids, clusters
        self._old = {m.question_id: m for m in old.marks}
        self._new = {m.question_id: m for m in new.marks}

    def quality(self, drop: float) -> Condition:
        check = self._check("quality", lambda m: m.primary, drop, tests.no_worse)
        threshold = f"the score falls by less than {100 * drop:.3g} points"

        def told(c: Check) -> str:
            return f"quality went from {c.champion:.3f} to {c.challenger:.3f}"

        return self._said(check, "quality", threshold, told, "points", 1)

    def wrong(self, drop: float) -> Condition:
        check = self._check("wrong", lambda m: float(m.outcome != "wrong"), drop, tests.no_worse)
        threshold = f"wrong answers rise by less than {100 * drop:.3g} points"

        def told(c: Check) -> str:
            before, after = 100 * (1 - c.champion), 100 * (1 - c.challenger)
            return f"wrong answers went from {before:.1f} % to {after:.1f} %"

        return self._said(check, "wrong answers", threshold, told, "points", -1)

    def amount(
        self, name: str, unit: str, value: Callable[[Mark], float | None], limit: float
    ) -> Condition:
        check = self._check(name, value, limit, tests.no_dearer)
        threshold = f"{unit} rise by less than {100 * limit:.3g} %"

        def told(c: Check) -> str:
            return f"{name} is {100 * c.challenger:.1f} % of the pinned run's"

        return self._said(check, name, threshold, told, "%", -1)

    def _check(
        self,
        name: str,
        value: Callable[[Mark], float | None],
        limit: float,
        test: Callable[[str, list[float], list[float], list[str], float], Check],
    ) -> Check | None:
        rows = [
            (x, y, self._clusters[q])
            for q in self._ids
            if q in self._old and q in self._new
            if (x := value(self._old[q])) is not None and (y := value(self._new[q])) is not None
        ]
        if not rows:
            return None
        old, new, clusters = (list(column) for column in zip(*rows, strict=True))
        return test(name, old, new, clusters, limit)

    def _said(
        self,
        check: Check | None,
        name: str,
        threshold: str,
        words: Callable[[Check], str],
        unit: str,
        sign: int,
    ) -> Condition:
        """A condition in words; the check's difference is a gain, `sign` turns it to a change."""
        if check is None:
            return Condition(self._arm, name, threshold, "open", f"{name} was not measured in both")
        told, d = words(check), check.difference
        if d.low is not None and d.high is not None:
            # Adding zero makes -0.0 a plain zero.
            low, high = sorted((100 * sign * d.low + 0.0, 100 * sign * d.high + 0.0))
            # Two one-sided bounds of 5 % each.
            told += f" (change {low:+.1f} to {high:+.1f} {unit}, 90 % interval)"
        if check.state == "open" and check.n_documents < MIN_DOCUMENTS:
            told += f"; {check.n_documents} documents are too few for a decision"
        elif check.state == "open" and check.needed:
            told += f"; about {check.needed} questions would settle it"
        return Condition(self._arm, name, threshold, check.state, told)


def _cost(mark: Mark) -> float | None:
    return mark.cost_usd


def _seconds(mark: Mark) -> float | None:
    return mark.latency_s
