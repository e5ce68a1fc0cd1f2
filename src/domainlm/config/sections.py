"""Sections of the settings that need nothing of the others."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from domainlm.schema import RagSpec, StageSpec


class Section(BaseModel):
    """A group of settings: frozen, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ImproveConfig(Section):
    """The gate between a newly trained model and the one in use.

    `alpha` is the chance that any of `rounds` models without gain passes, `margin` the loss of
    general skill, abstention or format that may remain possible, `overhead` the same for latency
    and cost (as a share), `replay` the share of general rows in training. Fewer than `min_pairs`
    preferences, or `min_thumbs` of either kind, do not train.
    """

    alpha: float = Field(0.05, gt=0, lt=0.5)
    rounds: int = Field(6, ge=1, le=1000)
    margin: float = Field(0.1, gt=0, lt=1)
    overhead: float = Field(0.2, gt=0, le=10)
    replay: float = Field(0.08, ge=0, le=0.5)
    min_pairs: int = Field(8, ge=1)
    min_thumbs: int = Field(4, ge=1)


class SplitConfig(Section):
    """Shares of documents (dev, test_new) and of questions about known ones (test_known)."""

    seed: int = 0
    dev: float = Field(0.15, ge=0, lt=1)
    test_new: float = Field(0.2, ge=0, lt=1)
    test_known: float = Field(0.2, ge=0, lt=1)

    @model_validator(mode="after")
    def _leaves_some_to_train(self) -> SplitConfig:
        if self.dev + self.test_new >= 1:
            raise ValueError(
                f"dev + test_new is {self.dev + self.test_new:g}; keep it below 1, so that "
                "documents are left to train on"
            )
        return self


class ChunkingConfig(Section):
    """How documents become retrievable spans; sizes in tokens of the embedder."""

    use: Literal["recursive", "sentence_window", "parent_child"] = "recursive"
    tokens: int = Field(160, ge=16, le=2048)
    overlap: int = Field(0, ge=0)
    window: int = Field(2, ge=0, le=20)
    parent_tokens: int = Field(480, ge=32, le=8192)
    header: bool = True

    @model_validator(mode="after")
    def _sizes_fit(self) -> ChunkingConfig:
        if self.overlap >= self.tokens:
            raise ValueError(
                f"overlap is {self.overlap}, but tokens is {self.tokens}; make overlap smaller"
            )
        if self.use == "parent_child" and self.parent_tokens < self.tokens:
            raise ValueError(
                f"parent_tokens is {self.parent_tokens}, but tokens is {self.tokens}; make "
                "parent_tokens larger"
            )
        return self


class StageConfig(BaseModel):
    """A pipeline stage: its name and, beside it, the settings of its factory."""

    model_config = ConfigDict(extra="allow", frozen=True)
    use: str

    def spec(self) -> StageSpec:
        """The plain value that flows through the pipeline."""
        return StageSpec(self.use, dict(self.model_extra or {}))


class RagConfig(Section):
    """The pipelines to choose from: `candidates` are tried on dev, or the one given is used."""

    pre: tuple[StageConfig, ...] = ()
    retrieve: tuple[StageConfig, ...] = ()
    rerank: tuple[StageConfig, ...] = ()
    post: tuple[StageConfig, ...] = ()
    passages: int = Field(3, ge=1, le=50)
    depth: int = Field(30, ge=1, le=1000)
    reader: Literal["together", "per_document", "replug", "global"] = "together"

    def spec(self) -> RagSpec | None:
        """The pipeline named in the configuration; None lets the dev questions choose."""
        if not (self.pre or self.retrieve or self.rerank or self.post):
            # A reader alone leaves the choice of the retriever to the dev questions.
            return None
        return RagSpec(
            tuple(s.spec() for s in self.pre),
            tuple(s.spec() for s in self.retrieve) or (StageSpec("hybrid"),),
            tuple(s.spec() for s in self.post),
            self.passages,
            tuple(s.spec() for s in self.rerank),
            self.depth,
            self.reader,
        )


class EvaluationConfig(Section):
    """The margin within which arms count as equivalent, a cap on test questions, and how waiting is
    timed: `probes` questions one at a time, and with a `load` above 0 that many arriving a second.
    """

    margin: float = Field(0.05, gt=0, lt=1)
    max_questions: int = Field(0, ge=0)
    dev_questions: int = Field(0, ge=0)
    minimum_quality: float = Field(0.0, ge=0, le=1)
    diagnostics: bool = False
    probes: int = Field(0, ge=0)
    load: float = Field(0.0, ge=0, le=1e6)
    load_questions: int = Field(60, ge=1)


class DecodingConfig(Section):
    """Identical for all arms: greedy unless told otherwise. With `keep`, answers that are probably
    to questions without an answer are withheld, as long as that share of the others stays answered.
    With `fetch_price`, arms learn to show passages only where they are worth their tokens.
    """

    max_tokens: int = Field(96, ge=1, le=4096)
    temperature: float = Field(0.0, ge=0, le=2)
    seed: int = 0
    keep: float | None = Field(None, gt=0, le=1)
    # Points of quality that 1,000 prompt tokens must bring.
    fetch_price: float | None = Field(None, ge=0, le=100)


class ServeConfig(Section):
    """The server: where it listens, who may use it, and how much of it."""

    host: str = "127.0.0.1"
    port: int = Field(8642, ge=0, le=65535)
    # Whether a proxy in front speaks HTTPS: browsers then send sessions over nothing else.
    https: bool = False
    # None: beside the run's folder, as output/name.users.json.
    users: Path | None = None
    session_hours: float = Field(12.0, gt=0, le=24 * 365)
    # Questions that are being answered or wait; the next one is told to come back later.
    queue: int = Field(64, ge=1, le=10_000)
    # Of which one user who signed in may hold this share, so that others get through.
    queue_share: float = Field(0.5, gt=0, le=1)
    batch: int = Field(16, ge=1, le=1024)
    # Models held in memory at once; the one that was used longest ago makes room.
    models: int = Field(3, ge=1, le=64)
    max_tokens: int = Field(512, ge=1, le=32_768)
    answer_seconds: float = Field(120.0, gt=0, le=3600)
    requests_per_minute: int = Field(600, ge=1)
    max_body_kb: int = Field(1_024, ge=1)
    # A body that is not there by then is given up.
    body_seconds: float = Field(60.0, gt=0, le=3600)
    max_upload_mb: int = Field(50, ge=1, le=10_000)
    parse_seconds: int = Field(60, ge=1, le=3600)
    parse_memory_mb: int = Field(2_048, ge=256)
