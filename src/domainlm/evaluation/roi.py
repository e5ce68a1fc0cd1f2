"""Return on investment: setup, cost lines, exact break-evens, net value, when to retrain.

An arm's monthly cost is a line in the monthly volume q: setup / months + fixed + q * marginal.
Two lines cross once at most, so break-evens are solved and not read off a grid.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

from domainlm.errors import ConfigError
from domainlm.evaluation.cost import Machine, PriceBook, machine_cost
from domainlm.schema import ArmSummary, BreakEven, RoiCase

HORIZON_QUESTIONS = 10_000_000.0


@dataclass(frozen=True, slots=True)
class Setup:
    """What an arm takes before its first answer and every month after it.

    Seconds are measured busy machine time; labels and hours are declared. `storage_gb` and
    `monthly_usd` (an idle GPU, a licence, refreshing the index) recur.
    """

    index_s: float = 0.0
    training_s: float = 0.0
    synthesis_s: float = 0.0
    labels: int = 0
    engineering_hours: float = 0.0
    storage_gb: float = 0.0
    monthly_usd: float = 0.0


@dataclass(frozen=True, slots=True)
class Value:
    """Dollars that a correct answer earns, a wrong one destroys, and handing a question over to a
    person costs (abstained and failed answers).
    """

    correct: float
    wrong: float = 0.0
    escalated: float = 0.0


def roi_case(
    summary: ArmSummary,
    setup: Setup,
    prices: PriceBook,
    machine: Machine,
    *,
    volumes: Sequence[float] = (1_000, 10_000, 100_000, 1_000_000),
    months: int = 12,
) -> RoiCase:
    """Price one arm.

    Args:
        summary: The arm on the slice that stands for use (task "all", split "test").
        setup: One-time and recurring needs.
        prices: The price book.
        machine: What indexed and trained; its utilisation does not apply to setup.
        volumes: Questions per month to tabulate.
        months: Months over which setup is amortised.

    Raises:
        ConfigError: `months` is below 1, or the machine has no price.
    """
    if months < 1:
        raise ConfigError(f"setup is amortised over {months} months; it takes at least 1")
    busy = Machine(machine.cores, machine.gpu, machine.gpus)
    setup_usd = (
        machine_cost(setup.index_s + setup.training_s + setup.synthesis_s, prices, busy)
        + setup.labels * prices.usd("label")
        + setup.engineering_hours * prices.usd("engineering_hour")
    )
    fixed = setup.monthly_usd + setup.storage_gb * prices.usd("storage_gb_month")
    marginal = summary.cost_per_question_usd
    monthly = tuple((float(q), setup_usd / months + fixed + q * marginal) for q in volumes)
    return RoiCase(
        summary.arm, setup_usd, fixed, marginal, summary.cost_per_correct_usd, monthly, months
    )


def monthly_usd(case: RoiCase, questions_per_month: float) -> float:
    """Dollars per month at a volume, setup amortised."""
    return _fixed(case) + questions_per_month * case.cost_per_question_usd


def crossing(
    start_a: float, slope_a: float, start_b: float, slope_b: float, horizon: float
) -> float | None:
    """First x from which line a stays strictly below line b up to the horizon, or None.

    0 means from the beginning. A line that is below only for a while has no persistent crossing.
    """
    if start_a + slope_a * horizon >= start_b + slope_b * horizon:
        return None
    return 0.0 if start_a <= start_b else (start_a - start_b) / (slope_b - slope_a)


def break_even(
    a: RoiCase, b: RoiCase, *, horizon_questions: float = HORIZON_QUESTIONS
) -> BreakEven:
    """Monthly volume from which `a` costs less than `b` per correct answer, for good.

    Both lines are divided by the arm's share of correct answers, so that a cheap arm which is
    mostly wrong does not win by answering.
    """
    result = crossing(*_per_correct(a), *_per_correct(b), horizon_questions)
    return BreakEven(a.arm, b.arm, result, horizon_questions, "per correct answer")


def break_evens(
    cases: Sequence[RoiCase],
    *,
    horizon_questions: float = HORIZON_QUESTIONS,
    value_per_question: Mapping[str, float] | None = None,
) -> list[BreakEven]:
    """All ordered pairs: by net value where `value_per_question` (arm -> dollars) is given, else
    by cost per correct answer.
    """
    pairs = permutations(cases, 2)
    if value_per_question is None:
        return [break_even(a, b, horizon_questions=horizon_questions) for a, b in pairs]
    worth = value_per_question
    return [
        net_break_even(a, b, worth[a.arm], worth[b.arm], horizon_questions=horizon_questions)
        for a, b in pairs
    ]


def value_per_question(outcomes: Mapping[str, int], value: Value) -> float:
    """Expected dollars of one answer before costs, from counts of correct, wrong, abstained and
    failed; 0 without any answer.
    """
    n = sum(outcomes.values())
    escalated = outcomes.get("abstained", 0) + outcomes.get("failed", 0)
    total = (
        outcomes.get("correct", 0) * value.correct
        - outcomes.get("wrong", 0) * value.wrong
        - escalated * value.escalated
    )
    return total / n if n else 0.0


def net_monthly_usd(case: RoiCase, worth: float, questions_per_month: float) -> float:
    """Value minus cost per month, `worth` being the value of one answer."""
    return questions_per_month * worth - monthly_usd(case, questions_per_month)


def net_break_even(
    a: RoiCase,
    b: RoiCase,
    worth_a: float,
    worth_b: float,
    *,
    horizon_questions: float = HORIZON_QUESTIONS,
) -> BreakEven:
    """Monthly volume from which `a` nets more than `b`, for good."""
    # Net loss is a line like any cost: lower is better.
    slope_a, slope_b = a.cost_per_question_usd - worth_a, b.cost_per_question_usd - worth_b
    result = crossing(_fixed(a), slope_a, _fixed(b), slope_b, horizon_questions)
    return BreakEven(a.arm, b.arm, result, horizon_questions, "net value")


def payback_months(
    a: RoiCase, b: RoiCase, questions_per_month: float, *, horizon_months: float = 120.0
) -> float | None:
    """Months after which `a` has cost less than `b` in total, setup paid up front; None: never."""
    slope_a, slope_b = (
        c.fixed_monthly_usd + questions_per_month * c.cost_per_question_usd for c in (a, b)
    )
    return crossing(a.setup_usd, slope_a, b.setup_usd, slope_b, horizon_months)


def retrain_months(
    training_usd: float, decay_per_month: float, questions_per_month: float, value: Value
) -> float | None:
    """Interval that minimises training plus staleness, `sqrt(2 C / (decay q (v + w)))`.

    `decay_per_month` is the share of answers that turn from correct to wrong each month. None if
    nothing decays or nothing is lost by it.
    """
    loss = decay_per_month * questions_per_month * (value.correct + value.wrong)
    return math.sqrt(2 * training_usd / loss) if loss > 0 else None


def _fixed(case: RoiCase) -> float:
    return case.setup_usd / case.months + case.fixed_monthly_usd


def _per_correct(case: RoiCase) -> tuple[float, float]:
    if case.cost_per_correct_usd is None:
        return math.inf, 0.0
    # Marginal over per-correct cost is the share correct; with free answers it cannot be told.
    free = case.cost_per_correct_usd == 0
    share = 1.0 if free else case.cost_per_question_usd / case.cost_per_correct_usd
    return _fixed(case) / share, case.cost_per_correct_usd
