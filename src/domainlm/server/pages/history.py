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
from domainlm.server.runs import RunCard, Runs

_LISTED = 30


@dataclass(frozen=True, slots=True)
class Finished:
    """A finished run; `key` is its folder's name."""

    key: str
    result: RunResult


@dataclass(frozen=True, slots=True)
class Brief:
    """A run as a list shows it; `scores` are primary scores by arm."""

    key: str
    current: bool
    time: str
    ship: str
    sentence: str
    questions: int
    documents: int
    scores: dict[str, float | None]


class Briefs:
    """The runs of a site in brief: results are large, so each is read once for the list."""

    def __init__(self, runs: Runs, served: str) -> None:
        self._runs, self._served = runs, served
        self._known: dict[RunCard, dict[str, float | None]] = {}

    def all(self) -> list[Brief]:
        """The run that is served, then those that were set aside under its name, newest first."""
        name = self._served
        mine = [c for c in self._runs.cards() if c.name == name or c.name.startswith(f"{name}.")]
        found = []
        for card in sorted(mine, key=lambda c: c.name != name)[:_LISTED]:
            with contextlib.suppress(DataError, NotFound):
                found.append(
                    Brief(
                        card.name,
                        card.name == name,
                        card.created_at,
                        card.ship,
                        card.sentence,
                        card.questions,
                        card.documents,
                        self._scores(card),
                    )
                )
        return found

    def _scores(self, card: RunCard) -> dict[str, float | None]:
        if card not in self._known:
            result = self._runs.result(card.name)
            self._known[card] = {a: _figures(result, a)[0] for a in fmt.arm_names(result)}
        return self._known[card]


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


def scores_over(found: Sequence[Brief]) -> dict[str, list[float | None]]:
    """Primary score of each arm in each run, in the order given."""
    arms = dict.fromkeys(a for brief in found for a in brief.scores)
    return {a: [brief.scores.get(a) for brief in found] for a in arms}
