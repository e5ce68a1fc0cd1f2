"""Pipelines, what they did for one question, and how that scored."""

from dataclasses import dataclass, field
from typing import Any, Literal

from domainlm.schema.corpus import Passage, Split, Task
from domainlm.schema.interval import Interval
from domainlm.schema.models import Call, Certainty, Chat

Outcome = Literal["correct", "wrong", "abstained", "failed"]


@dataclass(frozen=True, slots=True)
class StageSpec:
    """A stage's name and settings, as YAML gives them: `{use: hybrid, k: 8}`."""

    use: str
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RagSpec:
    """A whole pipeline: query transforms, retrievers, rerankers of `depth` candidates, and
    post-processors of the `passages` best, which the prompt shows.
    """

    pre: tuple[StageSpec, ...] = ()
    retrieve: tuple[StageSpec, ...] = (StageSpec("hybrid"),)
    post: tuple[StageSpec, ...] = ()
    passages: int = 3
    rerank: tuple[StageSpec, ...] = ()
    depth: int = 30
    reader: Literal["together", "per_document", "replug", "global"] = "together"


@dataclass(frozen=True, slots=True)
class Trial:
    """One pipeline tried on the dev questions; `metrics` are means over `n` of them."""

    name: str
    spec: RagSpec
    n: int
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True)
class TraceStep:
    """What one stage of a pipeline did for one question: the queries or ranked chunk ids that left
    it, its seconds and model tokens, and why it fell back, if it did.
    """

    phase: Literal["pre", "retrieve", "rerank", "post", "read"]
    stage: str
    seconds: float
    queries: tuple[str, ...] = ()
    chunks: tuple[str, ...] = ()
    fallback: str = ""
    tokens_in: int = 0
    tokens_out: int = 0


@dataclass(frozen=True, slots=True)
class Citation:
    """A sentence of an answer, `answer[start:end]`, and the verbatim span of a document that
    supports it: `support` is the share of its words found there. Without one, `doc_id` is empty.
    """

    start: int
    end: int
    doc_id: str = ""
    source_start: int = 0
    source_end: int = 0
    support: float = 0.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What one arm answered, with the evidence, the exact prompt and every call it caused.

    `first_token_s`: seconds from the call to its first token, retrieval of the whole batch
    included; None where that was not measured. `withheld`: what the arm would have said, had it
    not been too unsure.
    """

    question_id: str
    arm: str
    text: str
    prompt: Chat
    passages: tuple[Passage, ...]
    calls: tuple[Call, ...]
    latency_s: float
    tokens_in: int
    tokens_out: int
    failed: bool = False
    error: str = ""
    trace: tuple[TraceStep, ...] = ()
    citations: tuple[Citation, ...] = ()
    first_token_s: float | None = None
    certainty: Certainty | None = None
    withheld: str = ""


@dataclass(frozen=True, slots=True)
class Known:
    """Unit vectors `(k, d)` of the kinds of train questions and of their right answers."""

    questions: tuple[tuple[float, ...], ...]
    answers: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class Doubt:
    """When an arm withholds its answer: signs are standardised, weighed (the last weight is the
    bias) and held against `cutoff` (None: never). `kept` and `refused` are the shares of answerable
    questions answered and of unanswerable ones not, on dev documents that the weights did not see.
    """

    arm: str
    centre: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...]
    cutoff: float | None
    answerable: int
    unanswerable: int
    kept: float
    refused: float


@dataclass(frozen=True, slots=True)
class ByAction:
    """A mean over questions where passages are always shown, never, and as a policy decides."""

    always: float
    never: float
    learned: float


@dataclass(frozen=True, slots=True)
class FetchPolicy:
    """When an arm shows its model what it found: signs are standardised and weighed (the last
    weight is the bias); from 0 on passages are shown. All figures are of dev documents that the
    weights did not see.

    `price` is in points of quality per 1,000 prompt tokens. `over_always` and `over_never` are
    gains of the reward (quality in [0, 1] less the price of the prompt) with one-sided 95 % bounds;
    only a policy with both lower bounds above zero is `kept`, else passages are always shown.
    """

    arm: str
    price: float
    centre: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...]
    kept: bool
    fetched: float
    """Share of questions with passages in the prompt."""
    quality: ByAction
    tokens: ByAction
    over_always: Interval
    over_never: Interval
    n_documents: int


@dataclass(frozen=True, slots=True)
class Classified:
    """The right class and the one that an answer chose ("" for none) among those of `family`, the
    choices that questions share.
    """

    family: str
    right: str
    said: str


@dataclass(frozen=True, slots=True)
class Score:
    """Metrics of one answer. A metric that does not apply is absent, never zero."""

    question_id: str
    arm: str
    task: Task
    split: Split
    cluster: str
    """The source document that inference resamples by (gold documents joined by ` + `)."""
    metrics: dict[str, float]
    outcome: Outcome
    classified: Classified | None = None
    """Of closed-form answers: what macro-F1 is counted from."""
