"""What the page's sliders compute with: the quantities behind the money, and draws of them."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from domainlm.evaluation import acceptance, roi
from domainlm.evaluation.roi import uncertainty
from domainlm.evaluation.summary import ALL, TEST
from domainlm.evaluation.verdict import SIMPLICITY, sentence_of, withheld
from domainlm.schema import Money, RunResult

DRAWS = 1_000
"""Joint draws that the page keeps of those the run made."""
_GAP = "\x00"
OTHER_SLOT = 5
"""Mark of people and of shipping nothing, which no arm has."""


def embedded(result: RunResult, slots: Mapping[str, int]) -> dict[str, Any]:
    """The data block of the sliders; empty where the result keeps no quantities.

    Arms come simplest first, so that a tie goes to the simpler one, as in the verdict.
    """
    money = result.money
    if money is None or not all(a.basis for a in money.arms if a.arm != roi.NONE):
        return {}
    arms, scenario = roi.priced(money)
    summaries = {s.arm: s for s in result.summaries if (s.task, s.split) == (ALL, TEST)}
    admitted = acceptance.admitted(result.standings) if result.standings else tuple(summaries)
    rows = []
    for arm in sorted(arms, key=lambda a: (_rank(a.name), a.name)):
        head = tail = ""
        if arm.name in summaries:
            said = sentence_of(
                summaries[arm.name], summaries, result.contrasts, result.standings, _GAP
            )
            head, _, tail = said.partition(_GAP)
        slot = slots.get(arm.name, OTHER_SLOT)
        row = {"slot": slot, "head": head, "tail": tail, "admitted": arm.name in admitted}
        rows.append(asdict(arm) | row)
    return {
        "scenario": asdict(scenario),
        "arms": rows,
        "people": roi.PEOPLE,
        "none": roi.NONE,
        "minimum": money.minimum,
        "withheld": withheld(summaries, result.contrasts),
        "draws": _draws(result, money),
        "sliders": sliders(money),
    }


def sliders(money: Money) -> list[dict[str, Any]]:
    """The inputs that a reader may move: key of the scenario, words, ends, and what 0 stands for
    (None: not set).
    """
    volume = money.volume
    value = money.inputs.get("value_correct") or 1.0
    wrong = money.inputs.get("cost_wrong") or value
    return [
        {
            "key": "volume",
            "label": "Questions a month",
            "unit": "a month",
            "low": volume / 1000,
            "high": volume * 1000,
        },
        {"key": "churn", "label": "Documents that change", "unit": "% a month", "share": True},
        {
            "key": "value_correct",
            "label": "Worth of a right answer",
            "unit": "dollars",
            "low": value / 1000,
            "high": value * 1000,
            "zero": None,
        },
        {
            "key": "cost_wrong",
            "label": "Cost of a wrong answer",
            "unit": "dollars",
            "low": wrong / 1000,
            "high": wrong * 1000,
            "zero": 0,
        },
    ]


def _rank(name: str) -> int:
    return SIMPLICITY.index(name) if name in SIMPLICITY else len(SIMPLICITY)


def _draws(result: RunResult, money: Money) -> dict[str, Any] | None:
    """Draws of quality and prices, a thousandth exact; None from too few documents."""
    measured = [a.arm for a in money.arms if a.arm not in (roi.PEOPLE, roi.NONE)]
    sample = roi.sample_of(result.scores, measured)
    if not sample.enough:
        return None
    shares = uncertainty.draw_shares(sample, uncertainty.DRAWS, money.seed)[:DRAWS]
    inputs = uncertainty.draw_inputs(money.ranges, uncertainty.DRAWS, money.seed)
    return {
        "n": len(shares),
        "shares": {
            arm: [[round(float(v), 4) for v in shares[:, i, outcome]] for outcome in (0, 1)]
            for i, arm in enumerate(sample.arms)
        },
        "inputs": {
            name: [float(f"{v:.4g}") for v in values[:DRAWS]] for name, values in inputs.items()
        },
    }
