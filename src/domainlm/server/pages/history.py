"""The runs of a domain: the current one and those that were set aside, and two of them compared."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from domainlm.artifacts import load_json
from domainlm.config import Config
from domainlm.errors import DataError
from domainlm.experiment import RESULT
from domainlm.report import format as fmt
from domainlm.schema import RunResult

_LISTED = 30


@dataclass(frozen=True, slots=True)
class Finished:
    """A finished run; `key` is its folder's name."""

    key: str
    result: RunResult
    current: bool


class Runs:
    """The finished runs in the output folder, read once per change."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._read: dict[Path, tuple[tuple[int, int], RunResult]] = {}

    def all(self) -> list[Finished]:
        """The current run and those set aside, newest first; unreadable ones are left out."""
        name = self._config.name
        folders = [self._config.folder, *self._config.output.glob(f"{name}.[0-9]*")]
        found = []
        for folder in folders[: _LISTED * 2]:
            with contextlib.suppress(DataError, OSError):
                result = self._load(folder / RESULT)
                found.append(Finished(folder.name, result, folder == self._config.folder))
        found.sort(key=lambda f: (f.current, f.result.created_at), reverse=True)
        return found[:_LISTED]

    def one(self, key: str) -> Finished | None:
        """The run whose folder is called so; empty means the current one."""
        return next((f for f in self.all() if f.key == key or (not key and f.current)), None)

    def _load(self, path: Path) -> RunResult:
        stat = path.stat()
        stamp = (stat.st_mtime_ns, stat.st_size)
        with self._lock:
            kept = self._read.get(path)
        if kept and kept[0] == stamp:
            return kept[1]
        result: RunResult = load_json(RunResult, path)
        with self._lock:
            self._read[path] = (stamp, result)
            while len(self._read) > _LISTED:
                self._read.pop(next(iter(self._read)))
        return result


@dataclass(frozen=True, slots=True)
class ArmChange:
    """One arm in two runs: primary score, dollars per 1,000 questions and median seconds."""

    arm: str
    before: tuple[float | None, float | None, float | None]
    after: tuple[float | None, float | None, float | None]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two runs side by side."""

    arms: tuple[ArmChange, ...]
    settings: tuple[tuple[str, str, str], ...]
    drift: tuple[tuple[str, str, str], ...]
    """What differs in what went in: documents, questions, models, prices."""
    same_questions: bool


def compare(before: RunResult, after: RunResult) -> Comparison:
    """What changed from one run to another."""
    arms = list(dict.fromkeys([*fmt.arm_names(before), *fmt.arm_names(after)]))
    changes = tuple(ArmChange(a, _figures(before, a), _figures(after, a)) for a in arms)
    x, y = _flat(before.config), _flat(after.config)
    settings = tuple(
        (k, x.get(k, fmt.NONE), y.get(k, fmt.NONE))
        for k in sorted(x.keys() | y.keys())
        if x.get(k) != y.get(k)
    )
    p = dict(before.provenance) | _counts(before)
    q = dict(after.provenance) | _counts(after)
    drift = tuple(
        (k, p.get(k, fmt.NONE), q.get(k, fmt.NONE))
        for k in (*p, *(k for k in q if k not in p))
        if p.get(k) != q.get(k)
    )
    asked = [{(i.id, i.text) for i in r.questions if i.split.startswith("test")}
             for r in (before, after)]  # fmt: skip
    return Comparison(changes, settings, drift, asked[0] == asked[1])


def _figures(result: RunResult, arm: str) -> tuple[float | None, float | None, float | None]:
    s = fmt.overall(result).get(arm)
    if s is None:
        return (None, None, None)
    primary = s.metrics.get("primary")
    score = primary.value if primary else None
    return (score, 1000 * s.cost_per_question_usd, s.latency_p50_s)


def _counts(result: RunResult) -> dict[str, str]:
    data = result.data
    questions = sum(sum(tasks.values()) for tasks in data.questions.values())
    return {"documents": f"{data.documents:,}", "questions": f"{questions:,}",
            "quarantined files": f"{len(data.quarantined):,}"}  # fmt: skip


def _flat(value: Any, name: str = "") -> dict[str, str]:
    if isinstance(value, dict):
        found: dict[str, str] = {}
        for key, part in value.items():
            found |= _flat(part, f"{name}.{key}" if name else str(key))
        return found
    return {name: str(value)}


def scores_over(found: Sequence[Finished]) -> dict[str, list[float | None]]:
    """Primary score of each arm in each run, in the order given."""
    arms = dict.fromkeys(a for f in found for a in fmt.arm_names(f.result))
    return {a: [_figures(f.result, a)[0] for f in found] for a in arms}
