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
