"""The figures of lab 3: the tutorial's conclusions, and where each repair moves them."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

LABS = Path(__file__).parents[2] / "labs"
NOTEBOOK = LABS / "03_evaluation.ipynb"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("lab3", LABS / "lab3.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by name.
    sys.modules["lab3"] = module
    spec.loader.exec_module(module)
    return module


lab3 = load()
PUBLISHED = lab3.Assumptions()
LISTED = lab3.Assumptions(price_is_per=1000)
BY_TOKEN = lab3.Assumptions(price_is_per=1000, on_demand=True)


def mean(arm: str, questions: str, metric: str) -> float:
    return float(lab3.mean(lab3.scores(arm, questions, metric)))


def test_the_stored_answers_are_complete() -> None:
    for arm, questions in (
        ("tuned", "training"),
        ("tuned", "second"),
        ("rag", "training"),
        ("rag", "reworded"),
    ):
        assert [r["fact"] for r in lab3.rows(arm, questions)] == [str(n) for n in range(1, 33)]
    # The tutorial left similarity out of RAG's answers to reworded questions.
    assert lab3.scores("rag", "reworded", "semantic_similarity") == []


@pytest.mark.parametrize(
    ("arm", "questions", "expected"),
    [
        ("tuned", "training", (0.654, 0.358, 0.442)),
        ("tuned", "second", (0.212, 0.041, 0.111)),
        ("rag", "training", (0.488, 0.270, 0.264)),
    ],
)
def test_session_one(arm: str, questions: str, expected: tuple[float, ...]) -> None:
    found = tuple(round(mean(arm, questions, m), 3) for m in lab3.METRICS)
    assert found == expected


def test_the_labels_and_the_second_answers_each_turn_the_leader() -> None:
    both = {m: lab3.scores("tuned", "training", m) for m in lab3.METRICS}
    mixed = {m: both[m] + lab3.scores("tuned", "second", m) for m in lab3.METRICS}
    rag = {m: mean("rag", "training", m) for m in lab3.METRICS}
    assert sum(lab3.mean(mixed[m]) > rag[m] for m in lab3.METRICS) == 1, "as stored: rag leads"
    assert all(lab3.mean(both[m]) > rag[m] for m in lab3.METRICS), "one answer each: tuned leads"


def test_a_year_costs_what_the_lab_says() -> None:
    assert round(lab3.year(PUBLISHED, "rag")) == 201_618
    yearly = [lab3.Assumptions(every_months=n) for n in (1, 3, 6, 12)]
    assert [round(lab3.year(a, "tuned")) for a in yearly] == [285_299, 221_194, 205_168, 197_155]
    # "From $96K to $8K" when training once a year instead of monthly.
    assert [round(12 / n * PUBLISHED.training) for n in (1, 12)] == [96_158, 8_013]


def test_the_break_even_moves_from_month_7_71_to_0_03() -> None:
    assert round(lab3.crossing(PUBLISHED), 2) == 7.71
    assert round(lab3.crossing(LISTED), 2) == 0.03
    assert lab3.day(lab3.crossing(PUBLISHED)) == "22 August"
    assert lab3.row_nearest_to(PUBLISHED, 101) == 8
    assert [lab3.crossing(lab3.Assumptions(every_months=n)) for n in (1, 3, 6)] == [None] * 3
    monthly = lab3.Assumptions(price_is_per=1000, every_months=1)
    assert round(lab3.crossing(monthly), 2) == 0.03


def test_paying_an_untuned_model_by_the_token_turns_the_cost() -> None:
    assert lab3.best(LISTED, lab3.BOTH) == "tuned"
    assert lab3.best(BY_TOKEN, lab3.BOTH) == "rag" and lab3.volume(BY_TOKEN) is None
    assert round(lab3.year(BY_TOKEN, "rag")) == 13_880
    # 213,063 questions a month of 1,500 + 150 tokens are 115 dollars.
    tokens = lab3.year(BY_TOKEN, "rag") / 12 - 1.40 * 744
    assert round(tokens) == 115


def test_cost_alone_recommends_nothing_and_worth_recommends_the_combination() -> None:
    assert lab3.best(BY_TOKEN, lab3.ALL) == "base"
    quality = lab3.measured()
    assert set(quality) == set(lab3.ALL)
    chosen = [
        lab3.best(BY_TOKEN, lab3.ALL, quality, value_correct=v, cost_wrong=v / 5)
        for v in (0.1, 0.5, 2.0, 5.0)
    ]
    assert chosen == ["none", "none", "raft", "raft"]


def test_the_notebook_shows_these_figures() -> None:
    cells = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    outputs = [o for c in cells if c["cell_type"] == "code" for o in c["outputs"]]
    shown = "\n".join(
        "".join(o.get("text", [])) + "".join(o.get("data", {}).get("text/markdown", []))
        for o in outputs
    )
    for figure in ("month 7.71 (22 August)", "month 0.03", "197,155", "201,618", "13,880"):
        assert figure in shown, figure
    ladder = shown[shown.index("| repaired |") :]
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", ladder, re.M)[2:]
    assert [r[0] for r in rows] == [
        "labels of the radar",
        "one answer a question",
        "questions not trained on",
        "break-even at zero",
        "price per 1,000 tokens",
        "volume",
        "missing arms",
        "quality",
    ]
    assert rows[0][1:] == ("tuned leads", "rag leads") and rows[2][2] == "no verdict"
