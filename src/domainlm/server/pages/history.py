"""The runs of a domain: the current one and those that were set aside, and two of them compared."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from domainlm.errors import DataError
from domainlm.report import format as fmt
from domainlm.schema import RunResult
from domainlm.server.failures import NotFound
from domainlm.server.runs import Runs

_LISTED = 30


@dataclass(frozen=True, slots=True)
class Finished:
    """A finished run; `key` is its folder's name."""

    key: str
    result: RunResult
    current: bool


def finished(runs: Runs, served: str) -> list[Finished]:
    """The runs that are served or were set aside under this name, newest first."""
    found = []
    for card in runs.cards()[:_LISTED]:
        if card.name == served or card.name.startswith(f"{served}."):
            with contextlib.suppress(DataError, NotFound):
                found.append(Finished(card.name, runs.result(card.name), card.name == served))
    return sorted(found, key=lambda f: not f.current)


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
