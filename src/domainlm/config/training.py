"""Settings of training: synthesis, supervised tuning, preferences, rewards, the retriever."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from domainlm.config.sections import Section


class SynthesisConfig(Section):
    """Question writing: by `writer` about passages; and about facts, by asking train questions
    again of other documents, by gaps, and by a writer tuned on the train questions.
    """

    passages: int = Field(0, ge=0)
    questions_per_passage: int = Field(2, ge=1, le=8)
    writer: Literal["plain"] | Path = "plain"
    min_groundedness: float = Field(0.8, ge=0, le=1)
    facts: int = Field(0, ge=0)
    questions_per_fact: int = Field(0, ge=0, le=8)


class PreferenceConfig(Section):
    """DPO and KTO: `beta` holds the model to its reference, `sft_weight` keeps the likelihood of
    chosen answers from falling.
    """

    beta: float = Field(0.1, gt=0, le=10)
    sft_weight: float = Field(0.2, ge=0, le=10)
    learning_rate: float = Field(1e-4, gt=0, lt=1)
    epochs: float = Field(1, gt=0, le=100)


class RewardConfig(Section):
    """GRPO after supervised tuning, on so many train `questions`: answers drawn for each, and how
    much each verifiable reward counts.
    """

    questions: int = Field(0, ge=0)
    generations: int = Field(8, ge=2, le=64)
    max_tokens: int = Field(64, ge=1, le=1024)
    temperature: float = Field(1.0, gt=0, le=2)
    learning_rate: float = Field(1e-4, gt=0, lt=1)
    beta: float = Field(0.0, ge=0, le=10)
    epochs: float = Field(1, gt=0, le=100)
    answer: float = Field(1.0, ge=0)
    support: float = Field(0.5, ge=0)
    abstention: float = Field(1.0, ge=0)


class RetrieverConfig(Section):
    """Contrastive tuning of the embedder on the train questions; no `epochs`, no tuning."""

    epochs: int = Field(0, ge=0, le=100)
    negatives: int = Field(2, ge=0, le=16)
    batch_size: int = Field(16, ge=2, le=1024)
    learning_rate: float = Field(3e-5, gt=0, lt=1)
    max_tokens: int = Field(128, ge=8, le=8192)


Method = Literal["lora", "dora", "rslora", "full", "prefix", "qlora"]
_RATES: dict[str, float] = {
    "lora": 5e-4,
    "dora": 5e-4,
    # Its scale is larger than LoRA's by the square root of the rank.
    "rslora": 2e-4,
    "full": 5e-5,
    "prefix": 1e-2,
    "qlora": 2e-4,
}


class TrainingConfig(Section):
    """Fine-tuning of `tuned` (closed book) and `raft` (retrieved passages).

    `learning_rate` is the method's own where it is not given; two or more `learning_rates` race on
    the dev questions instead. `cpt_tokens` of the documents are read before the questions;
    `info_rag_rows` teach to complete a sentence from intact, damaged or irrelevant passages.
    """

    method: Method = "lora"
    rank: int = Field(16, ge=1, le=512)
    alpha: int = Field(32, ge=1)
    prefix_tokens: int = Field(16, ge=1, le=512)
    learning_rate: float | None = Field(None, gt=0, lt=1)
    learning_rates: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = ()
    race_rows: int = Field(32, ge=4)
    batch_size: int = Field(2, ge=1)
    micro_batch_tokens: int = Field(1024, ge=64)
    max_tokens: int = Field(1536, ge=64)
    max_completion_tokens: int = Field(256, ge=8)
    tuned_rows: int = Field(0, ge=0)
    tuned_epochs: float = Field(1, gt=0, le=1000)
    raft_rows: int = Field(0, ge=0)
    raft_epochs: float = Field(1, gt=0, le=1000)
    absent_share: float = Field(0.05, ge=0, le=0.5)
    partial_share: float = Field(0.0, ge=0, le=1)
    phrasings: int = Field(1, ge=1, le=10)
    replay_share: float = Field(0.0, ge=0, le=0.5)
    info_rag_rows: int = Field(0, ge=0)
    cpt_tokens: int = Field(0, ge=0)
    cpt_learning_rate: float | None = Field(None, gt=0, lt=1)
    checkpoint_every_s: float = Field(60.0, gt=0)
    seeds: int = Field(0, ge=0, le=20)
    synthesis: SynthesisConfig = SynthesisConfig()  # type: ignore[call-arg]
    preference: PreferenceConfig = PreferenceConfig()  # type: ignore[call-arg]
    reward: RewardConfig = RewardConfig()  # type: ignore[call-arg]
    retriever: RetrieverConfig = RetrieverConfig()  # type: ignore[call-arg]

    @property
    def rate(self) -> float:
        """The learning rate in force."""
        return self.learning_rate or _RATES[self.method]
