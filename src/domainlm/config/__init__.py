"""What a run is: one YAML file, `key=value` overrides, and the budget dial beneath them.

Everything has a default except `documents` and `questions`; `budget` sets how much is synthesised
and trained, and any single value may still be set by hand. Unknown keys are refused with the
nearest right one. Relative paths are read from the folder of the YAML file.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ValidationError, field_validator, model_validator

from domainlm.config.acceptance import AcceptanceConfig
from domainlm.config.budgets import BUDGETS, Budget
from domainlm.config.cost import CostConfig
from domainlm.config.reading import read_yaml
from domainlm.config.sections import (
    ChunkingConfig,
    DecodingConfig,
    EvaluationConfig,
    ImproveConfig,
    RagConfig,
    Section,
    ServeConfig,
    SplitConfig,
)
from domainlm.config.training import TrainingConfig
from domainlm.errors import ConfigError
from domainlm.schema import SetFormat

ArmName = Literal["base", "rag", "tuned", "tuned+rag", "raft"]
ARMS: tuple[ArmName, ...] = ("base", "rag", "tuned", "tuned+rag", "raft")


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

    @model_validator(mode="after")
    def _only_whole_prompts_are_gated(self) -> Config:
        if self.decoding.fetch_price is not None and self.rag.reader != "together":
            raise ValueError(
                f"decoding.fetch_price is {self.decoding.fetch_price:g}, but rag.reader "
                f"{self.rag.reader!r} has no one prompt to leave passages out of; use "
                "rag.reader: together, or leave fetch_price null"
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
        raw = read_yaml(path.read_text("utf-8"))
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
        raise ConfigError(
            f"configuration {path} is not readable YAML: {reason:.200}; mend that place"
        ) from None
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
    training, writer = config.training, config.training.synthesis.writer
    if isinstance(writer, Path):
        wanted = training.synthesis.model_copy(update={"writer": _at(base, writer)})
        training = training.model_copy(update={"synthesis": wanted})
    return config.model_copy(
        update={
            "training": training,
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
    training, evaluation = _section(raw, "training"), _section(raw, "evaluation")
    if dial is None or not isinstance(training, dict) or not isinstance(evaluation, dict):
        return raw
    synthesis = _section(training, "synthesis")
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


def _section(raw: dict[str, Any], name: str) -> Any:
    """What stands under `name`; a section whose lines are all comments is empty."""
    value = raw.get(name)
    return {} if value is None else value


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


_WANTED = {
    "tuple_type": "give a list, such as [a, b]",
    "dict_type": "give settings of its own, such as {key: value}",
    "model_type": "give settings of its own, such as {key: value}",
    "path_type": "give a path",
    "string_type": "give text, in quotes if it looks like a number",
    "int_type": "give a whole number",
    "int_parsing": "give a whole number",
    "int_from_float": "give a whole number",
    "float_type": "give a number",
    "float_parsing": "give a number",
    "bool_type": "give true or false",
    "bool_parsing": "give true or false",
}
"""What to give instead, by pydantic's kind of error, where its message speaks of Python."""


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
    message = _WANTED.get(first["type"], first["msg"].removeprefix("Value error, "))
    return f"setting {where!r}: {message} (got {first['input']!r:.80})" if where else message
