"""The labs are executed notebooks: they compile, show their results, and name no machine."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

from domainlm.rag.stages import STAGES

LABS = Path(__file__).parents[2] / "labs"
NOTEBOOKS = sorted(LABS.glob("*.ipynb"))


def code(path: Path) -> list[dict[str, Any]]:
    cells = json.loads(path.read_text("utf-8"))["cells"]
    return [c for c in cells if c["cell_type"] == "code"]


def source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def shown(path: Path) -> str:
    """Every output as text."""
    return json.dumps([c["outputs"] for c in code(path)])


def test_there_are_labs() -> None:
    assert [p.name for p in NOTEBOOKS][:1] == ["01_rag.ipynb"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_cells_compile_and_ran_in_order(path: Path) -> None:
    cells = code(path)
    for cell in cells:
        ast.parse(source(cell))
    assert [c["execution_count"] for c in cells] == list(range(1, len(cells) + 1))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_outputs_are_there_and_clean(path: Path) -> None:
    outputs = [o for c in code(path) for o in c["outputs"]]
    kinds = {o["output_type"] for o in outputs}
    assert {"stream", "execute_result"} <= kinds and "error" not in kinds
    assert not [o for o in outputs if o.get("name") == "stderr"]
    text = shown(path)
    assert not re.search(r"(?:^|[\s\"'(])(?:/(?:home|root|tmp|work|Users|var)/|[A-Z]:\\\\)", text)
    assert len(path.read_bytes()) < 200_000


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_what_ends_in_a_value_shows_it(path: Path) -> None:
    for cell in code(path):
        last = ast.parse(source(cell)).body[-1]
        if isinstance(last, ast.Expr):
            assert cell["outputs"], source(cell)[:200]


def test_the_first_lab_compares_what_exists() -> None:
    """Every stage that it names is one of the library's, and every pipeline was measured."""
    path = LABS / "01_rag.ipynb"
    whole = "\n".join(source(c) for c in code(path))
    tree = ast.parse(whole)
    named = {
        node.args[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "StageSpec"
        if isinstance(node.args[0], ast.Constant)
    }
    assert len(named) >= 5 and named <= {name for phase in STAGES.values() for name in phase}
    pipelines = next(
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "PIPELINES"
    )
    names = [row.elts[0].value for row in pipelines.elts]  # type: ignore[attr-defined]
    tables = [
        "".join(o["data"]["text/markdown"])
        for c in code(path)
        for o in c["outputs"]
        if "text/markdown" in o.get("data", {})
    ]
    rows = [re.findall(r"^\| ([^|]+?) \|", t, re.M)[2:] for t in tables if t.startswith("| pip")]
    assert rows == [names, names], "run `make labs` after changing the pipelines"
    assert "image/svg+xml" in shown(path)


def tables(path: Path) -> list[dict[str, list[str]]]:
    """The Markdown tables that a notebook shows: first cell of a row -> the others."""
    texts = [
        "".join(o["data"]["text/markdown"])
        for c in code(path)
        for o in c["outputs"]
        if "text/markdown" in o.get("data", {})
    ]
    split = [
        [[c.strip() for c in line.strip("| ").split("|")] for line in t.split("\n")] for t in texts
    ]
    return [{row[0]: row[1:] for row in rows[2:]} for rows in split]


def test_the_second_lab_shows_both_faults_and_mends_them() -> None:
    path = LABS / "02_tuning.ipynb"
    streams = "".join("".join(o["text"]) for c in code(path) for o in c["outputs"] if "text" in o)
    ends = re.search(r"(\d+) end tokens in (\d+) rows, (\d+) with a label", streams)
    assert ends and int(ends[1]) > int(ends[2]) > 0 and int(ends[3]) == 0
    shown_tables = tables(path)
    stops = next(t for t in shown_tables if "SFT as in the lab" in t and len(t["base"]) == 2)
    assert float(stops["SFT, end learned"][0]) > float(stops["SFT as in the lab"][0])
    scores = next(t for t in shown_tables if len(t.get("base", ())) == 4)
    trained, rephrased, known, new = map(float, scores["SFT, end learned"])
    assert min(trained, rephrased) > 2 * max(known, new), "the leak is what the lab is about"
    last = next(t for t in shown_tables if "RAFT" in t)
    assert float(last["RAFT"][0]) == max(float(row[0]) for row in last.values())
