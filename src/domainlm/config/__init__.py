"""What a run is: one YAML file, `key=value` overrides, and the budget dial beneath them.

Everything has a default except `documents` and `questions`; `budget` sets how much is synthesised
and trained, and any single value may still be set by hand. Unknown keys are refused with the
nearest right one. Relative paths are read from the folder of the YAML file.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from domainlm.config.acceptance import AcceptanceConfig
from domainlm.config.budgets import BUDGETS, Budget
from domainlm.config.sections import (
    DecodingConfig,
    ImproveConfig,
    Section,
    ServeConfig,
    SplitConfig,
)
from domainlm.errors import ConfigError
from domainlm.schema import RagSpec, SetFormat, StageSpec

ArmName = Literal["base", "rag", "tuned", "tuned+rag", "raft"]
ARMS: tuple[ArmName, ...] = ("base", "rag", "tuned", "tuned+rag", "raft")


class ChunkingConfig(Section):
    """How documents become retrievable spans; sizes in tokens of the embedder."""

    use: Literal["recursive", "sentence_window", "parent_child"] = "recursive"
    tokens: int = Field(160, ge=16, le=2048)
    overlap: int = Field(0, ge=0)
    window: int = Field(2, ge=0, le=20)
    parent_tokens: int = Field(480, ge=32, le=8192)
    header: bool = True


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


class SynthesisConfig(Section):
    """Question writing: by the model as it is about passages; and about facts, by asking train
    questions again of other documents, by gaps, and by a writer tuned on the train questions.
    """

    passages: int = Field(0, ge=0)
    questions_per_passage: int = Field(2, ge=1, le=8)
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


Usd = Annotated[float, Field(ge=0, lt=1e12)]
Share = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(ge=0, lt=1e9)]


class CostConfig(Section):
    """Prices, volumes, the worth of an answer and how the world changes.

    The defaults charge what was measured and assume nothing: an answer has no worth until one is
    declared, nobody's time is billed, and nothing grows old unless the documents' dates say so.
    """

    prices: Path | None = None
    hardware: str = "cpu_core_hour"
    units: float = Field(2.0, gt=0, lt=1e6)
    model_price: str = ""
    # A price list older than half a year has usually been overtaken by the next one.
    stale_days: int = Field(180, ge=1)
    questions_per_month: tuple[Annotated[float, Field(gt=0, lt=1e12)], ...] = Field(
        (100, 1_000, 10_000, 100_000, 1_000_000), min_length=1
    )
    # None: the middle of questions_per_month.
    volume: float | None = Field(None, gt=0, lt=1e12)
    months: int = Field(12, ge=1, le=120)
    value_correct_usd: Usd | None = None
    cost_wrong_usd: Usd | None = None
    cost_abstained_usd: Usd | None = None
    # The base-case real rate of OMB circular A-94 (1992); over a year it hardly matters.
    discount: float = Field(0.07, ge=0, lt=1)
    # use: busy seconds are billed. replicas: whole machines are rented by the month.
    hosting: Literal["use", "replicas"] = "use"
    # Office hours, 40 of a week's 168: what rented machines are busy when people ask at work.
    utilisation: float = Field(0.24, gt=0, le=1)
    # Share of documents that change in a month; None: from their dates, else 0.
    churn: Share | None = None
    # Share of answers that turn wrong in a month without retraining; None: closed-book arms lose
    # the share that churn makes stale, arms that read the refreshed documents nothing.
    decay: Share | None = None
    # None: the interval that costs least.
    retrain_months: float | None = Field(None, gt=0, le=1200)
    retrain_hours: Amount = 0.0
    retrieval_hours: Amount = 0.0
    tuning_hours: Amount = 0.0
    # Labels that tuning needed; those of the test are needed by every arm alike.
    labels: int = Field(0, ge=0)
    # Minutes that a person looks at each answer of an arm.
    review_minutes: Amount = 0.0
    # Minutes that a person takes to answer a question alone; None leaves people out.
    person_minutes: Amount | None = None
    person_correct: Share = 1.0
    # Undeclared prices are looked at from half to twice, the usual error of a first estimate.
    spread: float = Field(2.0, gt=1, le=100)
    ranges: dict[str, tuple[Usd, Usd]] = {}
    # Labelled questions that might be added, and whether they would pay.
    more_questions: int = Field(200, ge=1, le=1_000_000)

    @field_validator("ranges")
    @classmethod
    def _ordered(cls, value: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
        for name, (low, high) in value.items():
            if low > high:
                raise ValueError(f"{name} runs from {low} to {high}; give the lower end first")
        return value

    @property
    def planned_volume(self) -> float:
        """Questions a month that the verdict plans for."""
        return self.volume or self.questions_per_month[len(self.questions_per_month) // 2]


COST_KEYS = frozenset(CostConfig.model_fields)


class Config(Section):
    """A whole run."""

    name: str = "run"
    documents: Path
    questions: Path
    format: SetFormat = "auto"
    output: Path = Path("runs")
    model: str = "embedded"
    embedder: str = "embedded"
    api_base: str = ""
    api_key_env: str = "OPENAI_API_KEY"
    allow_download: bool = False
    budget: Budget = "small"
    seed: int = 0
    arms: tuple[ArmName, ...] = ARMS
    split: SplitConfig = SplitConfig()  # type: ignore[call-arg]
    chunking: ChunkingConfig = ChunkingConfig()  # type: ignore[call-arg]
    rag: RagConfig = RagConfig()  # type: ignore[call-arg]
    training: TrainingConfig = TrainingConfig()  # type: ignore[call-arg]
    decoding: DecodingConfig = DecodingConfig()  # type: ignore[call-arg]
    evaluation: EvaluationConfig = EvaluationConfig()  # type: ignore[call-arg]
    acceptance: AcceptanceConfig = AcceptanceConfig()  # type: ignore[call-arg]
    cost: CostConfig = CostConfig()  # type: ignore[call-arg]
    improve: ImproveConfig = ImproveConfig()  # type: ignore[call-arg]
    serve: ServeConfig = ServeConfig()  # type: ignore[call-arg]

    @field_validator("name")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        wrong = not value.isprintable() or any(c in value for c in '/\\:*?"<>|')
        if not value or wrong or value in {".", ".."}:
            raise ValueError(f"{value!r} cannot be a folder name; use letters, digits and dashes")
        return value

    @field_validator("arms")
    @classmethod
    def _arms_once(cls, value: tuple[ArmName, ...]) -> tuple[ArmName, ...]:
        if not value or len(set(value)) != len(value):
            raise ValueError("list each arm once and at least one")
        return tuple(arm for arm in ARMS if arm in value)

    @model_validator(mode="after")
    def _endpoint_cannot_train(self) -> Config:
        trained = [a for a in self.arms if a not in ("base", "rag")]
        if self.model.startswith(("openai:", "fake")) and trained:
            raise ValueError(
                f"model {self.model!r} cannot be fine-tuned here, but arms asks for "
                f"{', '.join(trained)}; set arms: [base, rag] or a local model"
            )
        return self

    @model_validator(mode="after")
    def _endpoint_embedder_cannot_train(self) -> Config:
        if self.training.retriever.epochs and self.embedder.startswith(("openai:", "fake")):
            raise ValueError(
                f"embedder {self.embedder!r} cannot be tuned here, but training.retriever.epochs "
                f"is {self.training.retriever.epochs}; set it to 0 or use a local embedder"
            )
        return self

    @model_validator(mode="after")
    def _endpoint_gives_no_probabilities(self) -> Config:
        if self.rag.reader == "replug" and self.model.startswith(("openai:", "fake")):
            raise ValueError(
                f"rag.reader is 'replug', but model {self.model!r} gives no next-token "
                "probabilities; use the embedded or a local model, or rag.reader: together"
            )
        return self

    @property
    def folder(self) -> Path:
        """Where this run lives: `output/name`."""
        return self.output / self.name

    @property
    def feedback_log(self) -> Path:
        """The event log, beside the run's folder, which may be set aside or deleted."""
        return self.beside("feedback.sqlite")

    @property
    def asked_log(self) -> Path:
        """What `ask` answered, beside the event log."""
        return self.beside("asked.jsonl")

    def beside(self, suffix: str) -> Path:
        """A file beside the run's folder, which may be set aside or deleted."""
        return self.output / f"{self.name}.{suffix}"


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file, apply `key=value` overrides and the budget.

    Raises:
        ConfigError: the file is missing or not YAML, a key is unknown, a value is out of range.
    """
    try:
        raw = yaml.safe_load(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"configuration {path} does not exist; `domainlm init` writes one"
        ) from None
    except IsADirectoryError:
        raise ConfigError(
            f"configuration {path} is a folder; give the YAML file that `domainlm init` wrote"
        ) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"configuration {path} is not readable YAML: {reason:.200}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"configuration {path} must be a mapping of settings, not {raw!r:.60}")
    for override in overrides:
        apply_override(raw, override)
    return make_config(raw, base=path.resolve().parent)


def make_config(raw: dict[str, Any], base: Path | None = None) -> Config:
    """Validate settings and fill in the budget; relative paths start at `base`.

    Raises:
        ConfigError: a key is unknown or a value is out of range.
    """
    raw = _with_budget(raw)
    if "documents" not in raw and raw.get("format", "auto") != "auto" and "questions" in raw:
        raw = {**raw, "documents": raw["questions"]}
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(_one_sentence(error)) from None
    if base is None:
        return config
    return config.model_copy(
        update={
            "documents": base / config.documents.expanduser(),
            "questions": base / config.questions.expanduser(),
            "output": base / config.output.expanduser(),
            "serve": config.serve.model_copy(update={"users": _at(base, config.serve.users)}),
            "cost": config.cost.model_copy(update={"prices": _at(base, config.cost.prices)}),
        }
    )


def _at(base: Path, path: Path | None) -> Path | None:
    return base / path.expanduser() if path else None


def _with_budget(raw: dict[str, Any]) -> dict[str, Any]:
    """Fill what the budget governs; explicit settings win, a bad budget is left to validation."""
    budget = raw.get("budget", "small")
    dial = BUDGETS.get(budget) if isinstance(budget, str) else None  # type: ignore[call-overload]
    training, evaluation = raw.get("training") or {}, raw.get("evaluation") or {}
    if dial is None or not isinstance(training, dict) or not isinstance(evaluation, dict):
        return raw
    synthesis = training.get("synthesis") or {}
    if not isinstance(synthesis, dict):
        return raw
    return {
        **raw,
        "training": {
            **dial["training"],
            **training,
            "synthesis": {**dial["synthesis"], **synthesis},
        },
        "evaluation": {**dial["evaluation"], **evaluation},
    }


def apply_override(raw: dict[str, Any], override: str) -> None:
    """Set `key=value` among raw settings.

    Raises:
        ConfigError: it is not key=value, or runs through a value.
    """
    key, sign, value = override.partition("=")
    if not sign or not key:
        raise ConfigError(f"override {override!r} is not key=value, e.g. training.rank=8")
    node = raw
    *parents, leaf = key.split(".")
    for part in parents:
        child = node.get(part)
        if child is None:
            child = node[part] = {}
        if not isinstance(child, dict):
            raise ConfigError(f"override {override!r}: {part!r} is a value, not a section")
        node = child
    try:
        node[leaf] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise ConfigError(f"override {override!r}: {value!r} is not a YAML value") from None


def _one_sentence(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        section: Any = Config
        for part in first["loc"][:-1]:
            field = getattr(section, "model_fields", {}).get(part)
            section = field.annotation if field else section
        known = sorted(getattr(section, "model_fields", {}))
        near = difflib.get_close_matches(str(first["loc"][-1]), known, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"unknown setting {where!r}{hint} (known: {', '.join(known)})"
    if first["type"] == "missing":
        return f"setting {where!r} is missing; give it in the YAML file or as {where}=VALUE"
    message = first["msg"].removeprefix("Value error, ")
    return f"setting {where!r}: {message} (got {first['input']!r:.80})" if where else message
