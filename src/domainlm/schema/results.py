"""What a run found: summaries, contrasts, the verdict, the whole result."""

from dataclasses import dataclass, field
from typing import Any, Literal

from domainlm.schema.answers import Answer, Doubt, FetchPolicy, RagSpec, Score, Trial
from domainlm.schema.corpus import Quarantined, Question
from domainlm.schema.interval import Interval
from domainlm.schema.models import Adapter
from domainlm.schema.money import BreakEven, Money, RoiCase, Setup

SCHEMA_VERSION = 1
VerdictWord = Literal["better", "worse", "equivalent", "undecided"]


@dataclass(frozen=True, slots=True)
class ArmSummary:
    """One arm on one slice: `task` is a task or "all", `split` is "test_known", "test_new" or
    "test" for both.
    """

    arm: str
    task: str
    split: str
    n: int
    metrics: dict[str, Interval]
    outcomes: dict[str, int]
    latency_p50_s: float
    latency_p95_s: float
    tokens_in: float
    tokens_out: float
    cost_per_question_usd: float
    cost_per_correct_usd: float | None
    peak_memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds that one arm's users wait, by percentile ("p50", "p95", "p99").

    `rate` questions arrive a second, at random and whether or not the last one is answered; at 0
    they are asked one at a time. Empty or None is what the arm's model does not tell.
    """

    arm: str
    rate: float
    n: int
    end_to_end: dict[str, Interval]
    first_token: dict[str, Interval]
    per_token_s: Interval | None
    """Median seconds between tokens after the first."""
    served: float
    """Questions answered a second."""
    busy: float
    """Share of the time in which the arm was answering."""
    interleaved: bool = True
    """Arms took turns in random order; else each was timed in one stretch."""


@dataclass(frozen=True, slots=True)
class Contrast:
    """Paired difference `a - b` (or a declared combination) of one metric on one slice."""

    name: str
    a: str
    b: str
    task: str
    split: str
    metric: str
    difference: Interval
    p_value: float | None
    p_adjusted: float | None
    verdict: VerdictWord
    detectable: float | None
    """Smallest true gap that this sample would have found with power .8."""
    n_questions: int
    n_documents: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to ship, why, how surely and at what cost."""

    ship: str
    sentence: str
    reasons: tuple[str, ...]
    caveats: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Requirement:
    """One limit of the acceptance criteria, and whether an arm keeps it.

    `unit` is "share", "usd" or "s"; `chance` is how surely the limit is kept; `value` and `chance`
    are None where nothing was measured or the documents are too few, which `note` says.
    """

    name: str
    sense: Literal["at least", "at most"]
    limit: float
    unit: Literal["share", "usd", "s"]
    value: Interval | None
    chance: float | None
    state: Literal["meets", "misses", "undecided"]
    note: str = ""

    @property
    def looks_met(self) -> bool:
        """Whether the estimate keeps the limit, however unsure it is."""
        if self.value is None:
            return True
        if self.sense == "at least":
            return self.value.value >= self.limit
        return self.value.value <= self.limit


@dataclass(frozen=True, slots=True)
class Standing:
    """An arm against all requirements: it meets them if it meets each, misses if it misses one."""

    arm: str
    state: Literal["meets", "misses", "undecided"]
    requirements: tuple[Requirement, ...]

    @property
    def weakest(self) -> Requirement:
        """The requirement that is kept least surely."""
        return min(self.requirements, key=lambda r: 0.5 if r.chance is None else r.chance)


@dataclass(frozen=True, slots=True)
class DataCard:
    """What went in: counts of documents, chunks and questions, and what was left out."""

    documents: int
    characters: int
    chunks: int
    media_types: dict[str, int]
    quarantined: tuple[Quarantined, ...]
    questions: dict[str, dict[str, int]]
    """split -> task -> count."""
    dropped: tuple[tuple[str, str], ...]
    training_rows: dict[str, int]
    """kind of row -> count."""
    synthesis: dict[str, int] = field(default_factory=dict)
    """What question writing produced and what each filter refused."""


@dataclass(frozen=True, slots=True)
class StageTime:
    """Wall seconds of one stage of the main path in this run folder; resumed stages keep theirs."""

    stage: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Loss:
    """A missed question, the step where its evidence was lost, and how much of it each step held
    (step, share).
    """

    question_id: str
    arm: str
    step: str
    held: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class Waterfall:
    """Losses of one arm: `asked` questions that can be answered, `missed` of them, by step."""

    arm: str
    asked: int
    missed: int
    by_step: tuple[tuple[str, int], ...]
    losses: tuple[Loss, ...]


@dataclass(frozen=True, slots=True)
class Control:
    """A diagnostic arm, outside the family that the verdict chooses from, against `reference` on
    the test questions that both answered.
    """

    name: str
    reference: str
    what: str
    n: int
    quality: Interval
    contrast: Contrast
    sentence: str
    unread: bool = False
    """A placebo that does as well as its reference: the arm does not answer from passages."""


@dataclass(frozen=True, slots=True)
class SeedSpread:
    """One arm trained with several seeds on the same rows: mean scores over the same questions."""

    arm: str
    seeds: tuple[int, ...]
    means: tuple[float, ...]
    """The first is that of the arm itself."""
    sd: float
    sentence: str


@dataclass(frozen=True, slots=True)
class RunResult:
    """The one versioned result of a run: everything that the report shows."""

    name: str
    created_at: str
    config: dict[str, Any]
    provenance: dict[str, str]
    """Package versions, hardware, digests of data and models, dates of prices, seeds."""
    data: DataCard
    trials: tuple[Trial, ...]
    rag: RagSpec
    adapters: tuple[Adapter, ...]
    summaries: tuple[ArmSummary, ...]
    contrasts: tuple[Contrast, ...]
    roi: tuple[RoiCase, ...]
    break_evens: tuple[BreakEven, ...]
    verdict: Verdict
    questions: tuple[Question, ...]
    answers: tuple[Answer, ...]
    scores: tuple[Score, ...]
    times: tuple[StageTime, ...]
    test_touches: int
    schema_version: int = SCHEMA_VERSION
    waterfalls: tuple[Waterfall, ...] = ()
    """Where each arm that reads passages lost its answers; empty in results of earlier versions."""
    setups: dict[str, Setup] = field(default_factory=dict)
    """arm -> what it took to build; empty in runs that did not measure it."""
    churn: float | None = None
    """Share of documents that change in a month, estimated from their dates; None without dates."""
    money: Money | None = None
    standings: tuple[Standing, ...] = ()
    """Arms against the acceptance criteria; empty where none were set."""
    controls: tuple[Control, ...] = ()
    seeds: tuple[SeedSpread, ...] = ()
    doubts: tuple[Doubt, ...] = ()
    """When each arm withholds an answer; empty where it never does."""
    fetching: tuple[FetchPolicy, ...] = ()
    """When each arm shows its model what it found; empty where it always does."""
    latency: tuple[Latency, ...] = ()
    """One at a time, and at the load that was asked for; empty in results of earlier versions."""
