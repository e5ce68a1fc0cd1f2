"""One call from arms and a scenario to everything that is said about money."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import numpy as np

from domainlm.errors import DataError
from domainlm.evaluation.roi import model, sensitivity, uncertainty
from domainlm.evaluation.roi.crossing import payback_months
from domainlm.evaluation.roi.model import Arm, Floats, Scenario
from domainlm.evaluation.roi.sensitivity import Place
from domainlm.evaluation.roi.uncertainty import Draws, Sample
from domainlm.schema import ArmMoney, FlipPoint, Interval, Money, Swing
from domainlm.stats import MIN_DOCUMENTS, TOO_FEW

PEOPLE, NONE = "people", "none"
NOTHING = Arm(NONE, 0.0, 0.0, 0.0)
"""Shipping nothing: it earns nothing and costs nothing, and is a choice like any other."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How to look: ends of uncertain inputs, the factor for undeclared ones, required quality, and
    arms that are no choice since they do not meet other requirements.
    """

    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    spread: float = 2.0
    minimum: float = 0.0
    more_questions: int = 200
    draws: int = uncertainty.DRAWS
    seed: int = 0
    excluded: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class _Known:
    """What only a declared worth of answers and enough documents allow to say."""

    p_best: dict[str, float] = field(default_factory=dict)
    evpi: float | None = None
    evpi_quality: float | None = None
    evsi: float | None = None


def assess(
    arms: Sequence[Arm],
    s: Scenario,
    sample: Sample,
    places: Sequence[Place],
    settings: Settings,
    notes: Sequence[str] = (),
) -> Money:
    """Price the arms over the horizon, and say how sure that is.

    Args:
        arms: The measured arms, and `people` where their time is declared. Arms below the
            required quality are priced, but are no choice.
        s: Where things stand.
        sample: The measured arms' outcomes by document.
        places: Their quality, cost and latency.
        settings: How to look.
        notes: What was assumed or left out already.

    Raises:
        DataError: A number is not finite or is negative, or there is no arm.
    """
    _check(arms, s)
    said = list(notes)
    # What is too poor to ship is no choice, however much it would earn.
    poor = {a.name for a in arms if a.name != PEOPLE and a.correct < settings.minimum}
    choices = [*(a for a in arms if a.name not in poor | settings.excluded), NOTHING]
    valued = s.value_correct is not None
    if not valued:
        said.append(
            "No worth of a correct answer is set (cost.value_correct_usd), so arms are compared by "
            "what a correct answer costs, and nothing is said about net value."
        )
    sure = sample.enough
    if not sample.sizes.size:
        said.append("The arms share no test question, so nothing is said about chances.")
    elif not sure:
        said.append(
            f"The test questions come from {sample.sizes.size} documents; chances are given from "
            f"{MIN_DOCUMENTS} on."
        )
    shares = uncertainty.draw_shares(sample, settings.draws, settings.seed) if sure else None
    best = sensitivity.best_of(choices, s) if valued else None
    moved = _drawn_ranges(s, settings)
    costs = _question_costs(arms, s, moved, settings)
    fronts = _fronts(sample, shares, costs) if shares is not None else {}
    known, swings, flips = _Known(), list[Swing](), list[FlipPoint]()
    if best is not None:
        if sure:
            known = _know(choices, s, sample, settings, moved)
        if len(choices) > 1:
            swings = _tornado(choices, best, s, sample, shares, settings)
        flips = sensitivity.flips(choices, s)
    on_front = sensitivity.front(places)
    return Money(
        volume=float(s.volume),
        months=s.months,
        inputs={n: float(v) for n in sensitivity.INPUTS if (v := getattr(s, n)) is not None},
        arms=tuple(
            replace(
                _arm(arm, s, sample, shares, settings, known, arm.name in on_front),
                p_front=fronts.get(arm.name),
                question_usd=costs[arm.name][1] if arm.name in costs else None,
                basis=_basis(arm),
            )
            for arm in (*arms, *([NOTHING] if valued else []))
        ),
        best=best.name if best else None,
        tornado=tuple(swings),
        flips=tuple(flips),
        evpi_usd=known.evpi,
        evpi_quality_usd=known.evpi_quality,
        evsi_usd=known.evsi,
        evsi_questions=settings.more_questions,
        evsi_cost_usd=None if known.evsi is None else settings.more_questions * float(s.label),
        notes=tuple(said),
        replicas=s.replicas,
        minimum=settings.minimum,
        ranges=moved,
        seed=settings.seed,
    )


def priced(money: Money) -> tuple[list[Arm], Scenario]:
    """The arms and the scenario behind a record, people included, shipping nothing not.

    Raises:
        DataError: an earlier version wrote it, which kept no quantities.
    """
    entries = [entry for entry in money.arms if entry.arm != NONE]
    if not all(entry.basis for entry in entries):
        raise DataError(
            f"the quantities behind the money of {len(entries)} arms were not kept by the version "
            "that wrote this result; run `domainlm roi` to price it again"
        )
    flags = ("reads", "trained")
    made: list[Arm] = []
    for entry in entries:
        values: dict[str, Any] = {k: v for k, v in entry.basis.items() if k not in flags}
        made.append(Arm(entry.arm, **values, **{k: bool(entry.basis[k]) for k in flags}))
    inputs: dict[str, Any] = {n: v for n, v in money.inputs.items() if n != "volume"}
    return made, Scenario(money.volume, money.months, replicas=money.replicas, **inputs)


def _basis(arm: Arm) -> dict[str, float]:
    return {name: float(value) for name, value in asdict(arm).items() if name != "name"}


def _drawn_ranges(s: Scenario, settings: Settings) -> dict[str, tuple[float, float]]:
    """Ends of the inputs that are drawn: prices are nobody's choice; a setting is uncertain only
    where its range was declared.
    """
    ends = sensitivity.ends(s, settings.ranges, settings.spread)
    return {n: e for n, e in ends.items() if n in sensitivity.PRICES or n in settings.ranges}


def _question_costs(
    arms: Sequence[Arm], s: Scenario, moved: Mapping[str, tuple[float, float]], settings: Settings
) -> dict[str, tuple[Floats, Interval]]:
    """Draws of what one more question costs each arm, and their interval."""
    at = model.moved(s, uncertainty.draw_inputs(moved, settings.draws, settings.seed))
    found = {}
    for arm in arms:
        drawn = np.broadcast_to(model.question_cost(arm, at), (settings.draws,))
        now = float(model.question_cost(arm, s))
        found[arm.name] = (drawn, uncertainty.interval(now, drawn, settings.draws))
    return found


def _fronts(
    sample: Sample, shares: Floats, costs: Mapping[str, tuple[Floats, Interval]]
) -> dict[str, float]:
    drawn = np.stack([costs[name][0] for name in sample.arms], axis=1)
    chances = uncertainty.p_front(shares[..., 0], drawn)
    return {name: float(p) for name, p in zip(sample.arms, chances, strict=True)}


def _know(
    choices: Sequence[Arm],
    s: Scenario,
    sample: Sample,
    settings: Settings,
    moved: Mapping[str, tuple[float, float]],
) -> _Known:
    how = {"draws": settings.draws, "seed": settings.seed}
    drawn: Draws = uncertainty.simulate(choices, s, sample, moved, **how)
    chances = uncertainty.p_best(drawn.npv)
    return _Known(
        {arm.name: float(p) for arm, p in zip(choices, chances, strict=True)},
        uncertainty.evpi(drawn.npv),
        uncertainty.evpi_quality(choices, s, sample, **how),
        uncertainty.evsi(choices, s, sample, settings.more_questions, **how),
    )


def _tornado(
    choices: Sequence[Arm],
    best: Arm,
    s: Scenario,
    sample: Sample,
    shares: Floats | None,
    settings: Settings,
) -> list[Swing]:
    # Nothing can be learnt from the bars of a choice that is always worth 0.
    shown = best if best.name != NONE else max(choices[:-1], key=lambda a: float(model.npv(a, s)))
    quality = None
    if shares is not None and shown.name in sample.arms:
        right = shares[:, sample.arms.index(shown.name), 0]
        found = uncertainty.interval(float(shown.correct), right, right.size)
        quality = (found.low or 0.0, found.high or 0.0)
    return sensitivity.tornado(choices, shown, s, settings.ranges, settings.spread, quality)


def _arm(
    arm: Arm,
    s: Scenario,
    sample: Sample,
    shares: Floats | None,
    settings: Settings,
    known: _Known,
    on_front: bool,
) -> ArmMoney:
    every = float(model.retrain_interval(arm, s))
    each = float(model.cost_per_correct(arm, s))
    asked = int(sample.sizes.sum()) if arm.name in sample.arms else 0
    how = TOO_FEW if asked else "declared"
    per_correct = Interval(each, None, None, asked, how) if math.isfinite(each) else None
    p_minimum = None
    if shares is not None and asked:
        drawn = shares[:, sample.arms.index(arm.name)]
        if per_correct:
            costs = model.cost_per_correct(uncertainty.with_shares(arm, drawn), s)
            per_correct = uncertainty.interval(each, costs, asked)
        if settings.minimum > 0:
            p_minimum = float((drawn[:, 0] >= settings.minimum).mean())
    valued = s.value_correct is not None
    return ArmMoney(
        arm=arm.name,
        setup_usd=float(model.setup_cost(arm, s)),
        running_usd=float(model.running_cost(arm, s)),
        machines=int(model.machines(arm, s)),
        retrain_months=every if math.isfinite(every) else None,
        cost_per_correct=per_correct,
        cumulative_usd=tuple(
            float(model.cumulative(arm, s, float(m))) for m in range(s.months + 1)
        ),
        npv_usd=float(model.npv(arm, s)) if valued else None,
        payback_months=payback_months(arm, s) if valued and arm.name != NONE else None,
        p_best=known.p_best.get(arm.name),
        p_minimum=p_minimum,
        on_front=on_front,
    )


def _check(arms: Sequence[Arm], s: Scenario) -> None:
    if not arms:
        raise DataError("there are 0 arms to price; answer the test questions with at least one")
    records: list[tuple[str, Arm | Scenario]] = [("the scenario", s), *((a.name, a) for a in arms)]
    for owner, record in records:
        for entry in fields(record):
            value = getattr(record, entry.name)
            number = isinstance(value, int | float)
            if number and not (math.isfinite(value) and value >= 0):
                raise DataError(
                    f"{entry.name} of {owner} is {value}; the money needs finite numbers of at "
                    "least 0, so check the prices and the run"
                )
