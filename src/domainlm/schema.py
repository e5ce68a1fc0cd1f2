"""Every value that flows between stages or is written to disk.

All are frozen dataclasses; `artifacts` reads and writes them through pydantic's `TypeAdapter`, so
a record is declared once. Character spans are half-open offsets into `Document.text`, and
`document.text[start:end]` is always the verbatim text of the thing that carries the span.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

SCHEMA_VERSION = 1

Task = Literal["extractive", "multi_document", "closed_form", "summary", "unanswerable"]
TASKS: tuple[Task, ...] = (
    "extractive",
    "multi_document",
    "closed_form",
    "summary",
    "unanswerable",
)
Split = Literal["", "train", "dev", "test_known", "test_new"]
Outcome = Literal["correct", "wrong", "abstained", "failed"]
VerdictWord = Literal["better", "worse", "equivalent", "undecided"]

ABSTENTION = "Not in the documents."
"""The one sentence that counts as a defined abstention, in prompts, training targets and scores."""


# --- corpus ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Anchor:
    """A named place in a document: a page, a sheet, a slide or a section heading."""

    start: int
    end: int
    kind: Literal["page", "section", "sheet", "slide", "row"]
    label: str


@dataclass(frozen=True, slots=True)
class Document:
    """One readable file (or one record of a tabular or JSONL file) as plain text.

    `id` is the path relative to the documents folder with forward slashes (plus `#n` for records),
    `sha256` the digest of the text, `source` the same relative path without the record number.
    """

    id: str
    title: str
    source: str
    text: str
    media_type: str
    sha256: str
    anchors: tuple[Anchor, ...] = ()
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A file that could not become a document, and why; the run goes on without it."""

    source: str
    reason: Literal[
        "empty", "corrupt", "encrypted", "too_large", "mislabelled", "no_text", "unsupported"
    ]
    detail: str


@dataclass(frozen=True, slots=True)
class Chunk:
    """A retrievable span of one document.

    `text` is what is embedded and searched (after `header`), `window_start:window_end` the span
    that the reader is shown: the chunk itself, its sentence window, or its parent.
    """

    id: str
    doc_id: str
    text: str
    start: int
    end: int
    window_start: int
    window_end: int
    title: str = ""
    header: str = ""
    anchor: str = ""

    @property
    def indexed_text(self) -> str:
        """Header and text, as embedded and as full-text indexed."""
        return f"{self.header}\n{self.text}" if self.header else self.text


@dataclass(frozen=True, slots=True)
class Passage:
    """A ranked piece of evidence: the text shown to the model and where it stands verbatim."""

    chunk_id: str
    doc_id: str
    title: str
    text: str
    start: int
    end: int
    score: float
    anchor: str = ""


# --- questions ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Question:
    """One question with its references and gold documents.

    `references` are alternative right answers (empty for unanswerable ones), `doc_ids` the gold
    documents, `evidence` verbatim supporting passages, `choices` the allowed answers of a closed
    form, `scope` the documents a search must be confined to (empty: all of them).
    """

    id: str
    text: str
    references: tuple[str, ...] = ()
    task: Task = "extractive"
    doc_ids: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    scope: tuple[str, ...] = ()
    split: Split = ""
    origin: Literal["human", "synthetic"] = "human"
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class QuestionSet:
    """Questions split by document: no document feeds both training and `test_new`.

    `dropped` lists what a leakage check refused, as (question id, reason).
    """

    train: tuple[Question, ...]
    dev: tuple[Question, ...]
    test_known: tuple[Question, ...]
    test_new: tuple[Question, ...]
    train_doc_ids: tuple[str, ...]
    dropped: tuple[tuple[str, str], ...] = ()

    @property
    def test(self) -> tuple[Question, ...]:
        """Both test sets: known documents first, then new ones."""
        return self.test_known + self.test_new


# --- models ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat."""

    role: Literal["system", "user", "assistant"]
    content: str


Chat = tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Sampling:
    """Decoding settings; `temperature` 0 is greedy, `max_tokens` caps the new tokens."""

    max_tokens: int = 96
    temperature: float = 0.0
    seed: int = 0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens read and written, as the model's own tokenizer (or its server) counts them."""

    tokens_in: int = 0
    tokens_out: int = 0


@dataclass(frozen=True, slots=True)
class Generation:
    """One completion. `finish` is "stop" or "length"; `latency_s` is this item's share of its
    batch's wall time.
    """

    text: str
    usage: Usage
    latency_s: float
    model: str
    finish: Literal["stop", "length", "error"] = "stop"
    error: str = ""


@dataclass(frozen=True, slots=True)
class Call:
    """One entry of the call ledger: who was asked, for what, and what it took."""

    model: str
    kind: Literal["generate", "embed", "rerank"]
    purpose: str
    tokens_in: int
    tokens_out: int
    latency_s: float


# --- pipeline -------------------------------------------------------------------------------


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
    reader: Literal["together", "per_document"] = "together"


@dataclass(frozen=True, slots=True)
class Trial:
    """One pipeline tried on the dev questions; `metrics` are means over `n` of them."""

    name: str
    spec: RagSpec
    n: int
    metrics: dict[str, float]


# --- training -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """One supervised example: loss is computed on `completion` alone.

    `kind` tells what the prompt shows: nothing (`closed_book`), all, some or none of the labelled
    evidence (`gold`, `partial`, `absent`), or passages without any label (`unlabelled`).
    """

    id: str
    prompt: Chat
    completion: str
    kind: Literal["closed_book", "gold", "partial", "absent", "unlabelled"]
    question_id: str
    origin: Literal["human", "synthetic"] = "human"


@dataclass(frozen=True, slots=True)
class TrainingPoint:
    """One logged step of a training curve."""

    step: int
    epoch: float
    loss: float
    learning_rate: float


@dataclass(frozen=True, slots=True)
class Adapter:
    """A trained LoRA adapter: where it lies, its digest, and how it came to be."""

    name: str
    path: str
    digest: str
    base_model: str
    rows: int
    tokens: int
    seconds: float
    curve: tuple[TrainingPoint, ...] = ()
    eval_loss: float | None = None


# --- traces ---------------------------------------------------------------------------------


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


# --- answers and scores ---------------------------------------------------------------------


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
    """What one arm answered, with the evidence, the exact prompt and every call it caused."""

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


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its 95 % interval; `low` and `high` are None where none is honest."""

    value: float
    low: float | None
    high: float | None
    n: int
    method: str


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
class BreakEven:
    """First monthly volume from which `a` stays cheaper than `b` per correct answer's worth of
    cost; None means never within `horizon_questions`.
    """

    a: str
    b: str
    questions_per_month: float | None
    horizon_questions: float
    note: str = ""


@dataclass(frozen=True, slots=True)
class RoiCase:
    """Money of one arm: one-time setup, marginal cost, and cost by monthly volume."""

    arm: str
    setup_usd: float
    fixed_monthly_usd: float
    cost_per_question_usd: float
    cost_per_correct_usd: float | None
    monthly_usd: tuple[tuple[float, float], ...]
    """(questions per month, dollars per month) pairs, setup amortised over `months`."""
    months: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to ship, why, how surely and at what cost."""

    ship: str
    sentence: str
    reasons: tuple[str, ...]
    caveats: tuple[str, ...]


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
