"""What goes into a model and what comes out, trained adapters included."""

from dataclasses import dataclass
from typing import Literal

from domainlm.schema.corpus import Passage


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat."""

    role: Literal["system", "user", "assistant"]
    content: str


Chat = tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Sampling:
    """Decoding settings; `temperature` 0 is greedy, `max_tokens` caps the new tokens; with `stream`
    a remote model sends its answer piece by piece, so that the first token can be timed.
    """

    max_tokens: int = 96
    temperature: float = 0.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    stream: bool = False


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens read and written, as the model's own tokenizer (or its server) counts them."""

    tokens_in: int = 0
    tokens_out: int = 0


@dataclass(frozen=True, slots=True)
class Certainty:
    """How sure a model was of what it wrote, in nats: the log-probability of the whole answer, of
    its least likely token, and the mean of its first tokens.
    """

    total: float
    lowest: float
    opening: float


@dataclass(frozen=True, slots=True)
class Generation:
    """One completion. `finish` is "stop" or "length"; `latency_s` is this item's share of its
    batch's wall time, `first_token_s` the seconds from the call to its first token (None where the
    model does not tell).
    """

    text: str
    usage: Usage
    latency_s: float
    model: str
    finish: Literal["stop", "length", "error"] = "stop"
    error: str = ""
    first_token_s: float | None = None
    certainty: Certainty | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """One entry of the call ledger: who was asked, for what, and what it took."""

    model: str
    kind: Literal["generate", "embed", "rerank"]
    purpose: str
    tokens_in: int
    tokens_out: int
    latency_s: float


RowKind = Literal["closed_book", "gold", "partial", "absent", "unlabelled", "refine", "general"]


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """One supervised example: loss is computed on `completion` alone.

    `kind` tells what the prompt shows: nothing (`closed_book`), all, some or none of the labelled
    evidence (`gold`, `partial`, `absent`), passages without any label (`unlabelled`), or passages
    from which a sentence is completed (`refine`); `general` rows are about no domain. `doc_ids` are
    the documents that the prompt shows or the question is about, `events` the feedback behind the
    row.
    """

    id: str
    prompt: Chat
    completion: str
    kind: RowKind
    question_id: str
    origin: Literal["human", "synthetic"] = "human"
    doc_ids: tuple[str, ...] = ()
    events: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RewardRow:
    """One question for GRPO: what a right answer is and what the prompt shows.

    `answerable` is False where the right answer is the abstention; `doc_ids` and `events` as in
    training rows.
    """

    prompt: Chat
    references: tuple[str, ...]
    question_id: str
    passages: tuple[Passage, ...] = ()
    answerable: bool = True
    doc_ids: tuple[str, ...] = ()
    events: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TrainingPoint:
    """One logged step of a training curve."""

    step: int
    epoch: float
    loss: float
    learning_rate: float


@dataclass(frozen=True, slots=True)
class Likelihoods:
    """Mean log-probability per token (nats) of preferred and refused answers, before and after."""

    chosen_before: float
    chosen_after: float
    rejected_before: float
    rejected_after: float


@dataclass(frozen=True, slots=True)
class Adapter:
    """Trained weights: where they lie, their digest, and how they came to be.

    `method` is that of the weights ("full" is a whole checkpoint, not an adapter), `warnings` what
    the checks after training found, `likelihoods` and `rewards` what preferences and rewards did.
    """

    name: str
    path: str
    digest: str
    base_model: str
    rows: int
    tokens: int
    seconds: float
    curve: tuple[TrainingPoint, ...] = ()
    eval_loss: float | None = None
    method: str = "lora"
    warnings: tuple[str, ...] = ()
    likelihoods: Likelihoods | None = None
    rewards: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class TunedEmbedder:
    """An embedder tuned on train questions: folder, digest of the weights, and whether it stayed.

    `before` and `after` are dev quality of dense search. Without a path there was too little to
    learn from.
    """

    path: str
    digest: str
    pairs: int
    losses: tuple[float, ...] = ()
    seconds: float = 0.0
    before: float = 0.0
    after: float = 0.0
    kept: bool = False
