"""Money: what an arm takes, its bill, break-evens, and what is known about the decision."""

from dataclasses import dataclass, field

from domainlm.schema.interval import Interval


@dataclass(frozen=True, slots=True)
class Setup:
    """What an arm takes before its first answer and every month after it.

    Seconds are measured busy machine time (`training_s` includes the building of its rows); labels
    and hours are declared. `storage_gb` and `monthly_usd` (a licence, say) recur.
    """

    index_s: float = 0.0
    training_s: float = 0.0
    synthesis_s: float = 0.0
    labels: float = 0.0
    engineering_hours: float = 0.0
    storage_gb: float = 0.0
    setup_usd: float = 0.0
    monthly_usd: float = 0.0


@dataclass(frozen=True, slots=True)
class RoiCase:
    """The bill of one arm: one-time setup, what a month costs whatever is asked, what a question
    costs, and, where machines are rented by the month, what one costs and carries.
    """

    arm: str
    setup_usd: float
    fixed_monthly_usd: float
    cost_per_question_usd: float
    cost_per_correct_usd: float | None
    monthly_usd: tuple[tuple[float, float], ...]
    """(questions per month, dollars per month) pairs, setup amortised over `months`."""
    months: int
    machine_usd: float = 0.0
    """Dollars a month of one machine; 0 where busy seconds are billed."""
    machine_questions: float = 0.0
    """Questions a month that one machine carries."""


@dataclass(frozen=True, slots=True)
class BreakEven:
    """From where on `a` stays ahead of `b`: the first monthly volume for good, and the first month
    for good at the planned volume. None means never within `horizon_questions` or
    `horizon_months`. Ahead in what, `note` says.
    """

    a: str
    b: str
    questions_per_month: float | None
    horizon_questions: float
    note: str = ""
    months: float | None = None
    horizon_months: float = 0.0


@dataclass(frozen=True, slots=True)
class ArmMoney:
    """One arm (or "people") at the planned volume, over the horizon."""

    arm: str
    setup_usd: float
    running_usd: float
    """Dollars of a month: hosting, questions, refreshing, review; without retraining."""
    machines: int
    """Machines rented by the month; 0 where busy seconds are billed."""
    retrain_months: float | None
    cost_per_correct: Interval | None
    """Dollars of the whole horizon, setup included, by correct answers; None without any."""
    cumulative_usd: tuple[float, ...]
    """Value minus cost up to month 0, 1, ...; minus the cost where answers have no value."""
    npv_usd: float | None
    payback_months: float | None
    """When value has paid back all costs, for good."""
    p_best: float | None
    """Chance that this choice earns the most, given the sampled questions and price ranges; None
    below the required quality."""
    p_minimum: float | None
    """Chance that it reaches the required quality."""
    on_front: bool
    """No other arm is at least as good in quality, cost and latency, and better in one."""
    p_front: float | None = None
    """Chance that no other arm answers as much correctly for as little, and one of both better."""
    question_usd: Interval | None = None
    """What one more question costs, over the ranges of prices."""
    basis: dict[str, float] = field(default_factory=dict)
    """Measured and declared quantities that its money follows from, as the ROI model names them;
    empty in results of earlier versions."""


@dataclass(frozen=True, slots=True)
class Swing:
    """One bar of the tornado: an input moved to its low and high end, and what the choice nets."""

    input: str
    low: float
    high: float
    npv_low_usd: float
    npv_high_usd: float
    best_low: str
    best_high: str


@dataclass(frozen=True, slots=True)
class FlipPoint:
    """Value of an input at which another choice becomes the best one."""

    input: str
    value: float
    below: str
    above: str
    sentence: str


@dataclass(frozen=True, slots=True)
class UsedPrice:
    """A price that plays a part, as the price book has it; `stale`: too old when it was used."""

    name: str
    usd: float
    as_of: str
    source: str
    stale: bool


@dataclass(frozen=True, slots=True)
class Money:
    """What a run says about money at one volume; `notes` say why a value is None or empty."""

    volume: float
    months: int
    inputs: dict[str, float]
    arms: tuple[ArmMoney, ...]
    best: str | None
    """The choice with the highest net present value."""
    tornado: tuple[Swing, ...]
    flips: tuple[FlipPoint, ...]
    evpi_usd: float | None
    """Worth of knowing quality and prices exactly."""
    evpi_quality_usd: float | None
    evsi_usd: float | None
    """Worth of `evsi_questions` more labelled test questions, before their cost."""
    evsi_questions: int
    evsi_cost_usd: float | None
    notes: tuple[str, ...]
    replicas: bool = False
    """Whole machines are rented by the month; else busy seconds are billed."""
    minimum: float = 0.0
    """Required share of correct answers."""
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Low and high end of every input that was drawn at random."""
    seed: int = 0
    prices: tuple[UsedPrice, ...] = ()

    def arm(self, name: str) -> ArmMoney | None:
        """The entry of one arm."""
        return next((a for a in self.arms if a.arm == name), None)
