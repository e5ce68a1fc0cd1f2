"""Finished runs by whatever names them: a YAML file, a run folder, a result file, a pinned run."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from domainlm import history, pricing
from domainlm.artifacts import load_json
from domainlm.config import Config, apply_override, load_config, make_config
from domainlm.errors import ConfigError, DataError
from domainlm.experiment import RESULT
from domainlm.history import Snapshot
from domainlm.schema import RunResult

_YAML = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run and the file that holds it."""

    result: RunResult
    path: Path
    config: Config


def open_run(path: Path, overrides: Sequence[str] = ()) -> Run:
    """A finished run, by its YAML file, its folder or its result file.

    Args:
        path: What names it.
        overrides: Settings that differ from those of the run.

    Raises:
        DataError: there is no such run, or it has not finished.
        ConfigError: its settings are not those of this version.
    """
    result, file = find(path, overrides)
    if path.suffix.lower() in _YAML:
        return Run(result, file, load_config(path, overrides))
    raw: dict[str, Any] = copy.deepcopy(result.config)
    config = _settled(raw, file)
    if overrides:
        for override in overrides:
            apply_override(raw, override)
        config = make_config(raw)
    return Run(result, file, _moved(config, file))


def find(path: Path, overrides: Sequence[str] = ()) -> tuple[RunResult, Path]:
    """A finished run whatever its settings are, and the file that holds it.

    Raises:
        DataError: there is no such run, or it has not finished.
    """
    if path.suffix.lower() in _YAML:
        file = load_config(path, overrides).folder / RESULT
    else:
        file = path / RESULT if path.is_dir() else path
    return _result(file), file


def open_snapshot(path: Path, overrides: Sequence[str] = ()) -> Snapshot:
    """A finished run or a pinned one, as the history keeps it.

    Raises:
        DataError: there is no such run.
    """
    if is_pinned(path):
        return history.pinned(path)
    return snapshot_of(open_run(path, overrides))


def snapshot_of(run: Run, how: str = "run") -> Snapshot:
    """A run as the history keeps it, with the dollars of each answer at the prices of its settings.

    Raises:
        ConfigError: a price or its name is wrong.
    """
    prices = pricing.check(run.config)
    spent = pricing.answer_costs(run.config, prices, run.result.answers)
    costs = {(a.arm, a.question_id): usd for a, usd in zip(run.result.answers, spent, strict=True)}
    return history.snapshot(run.result, costs, how)


def _result(file: Path) -> RunResult:
    if not file.exists():
        raise DataError(
            f"{file} does not exist; give a finished run (its YAML file, its folder or its "
            f"{RESULT}), which `domainlm run` writes"
        )
    found: RunResult = load_json(RunResult, file)
    return found


def _settled(raw: dict[str, Any], file: Path) -> Config:
    """The settings that a run kept."""
    try:
        return make_config(raw)
    except ConfigError as error:
        raise ConfigError(
            f"the settings kept in {file} are not those of this version ({error}); name the run by "
            "its YAML file instead"
        ) from None


def _moved(config: Config, file: Path) -> Config:
    """The settings of a run whose folder may have been moved."""
    if file.name != RESULT:
        return config
    folder = file.resolve().parent
    return config.model_copy(update={"output": folder.parent, "name": folder.name})


def is_pinned(path: Path) -> bool:
    """Whether a file is what `history.pin` writes."""
    if path.suffix.lower() != ".json" or not path.is_file():
        return False
    try:
        raw = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(raw, dict) and "facts" in raw and "answers" not in raw
