"""Sections of the settings that need nothing of the others."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field


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


class DecodingConfig(Section):
    """Identical for all arms: greedy unless told otherwise. With `keep`, answers that are probably
    to questions without an answer are withheld, as long as that share of the others stays answered.
    """

    max_tokens: int = Field(96, ge=1, le=4096)
    temperature: float = Field(0.0, ge=0, le=2)
    seed: int = 0
    keep: float | None = Field(None, gt=0, le=1)


class ServeConfig(Section):
    """The server: where it listens, who may use it, and how much of it."""

    host: str = "127.0.0.1"
    port: int = Field(8642, ge=0, le=65535)
    # None: beside the run's folder, as output/name.users.json.
    users: Path | None = None
    session_hours: float = Field(12.0, gt=0, le=24 * 365)
    # Questions that are being answered or wait; the next one is told to come back later.
    queue: int = Field(64, ge=1, le=10_000)
    batch: int = Field(16, ge=1, le=1024)
    # Models held in memory at once; the one that was used longest ago makes room.
    models: int = Field(3, ge=1, le=64)
    max_tokens: int = Field(512, ge=1, le=32_768)
    answer_seconds: float = Field(120.0, gt=0, le=3600)
    requests_per_minute: int = Field(600, ge=1)
    max_body_kb: int = Field(1_024, ge=1)
    max_upload_mb: int = Field(50, ge=1, le=10_000)
    parse_seconds: int = Field(60, ge=1, le=3600)
    parse_memory_mb: int = Field(2_048, ge=256)
