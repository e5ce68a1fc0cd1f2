"""The commands around a run: optimize, diagnose, graph."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.end_to_end.conftest import inside


def call(*words: object) -> str:
    code, out, err = inside(*words)
    assert code == 0, err
    return out


@pytest.fixture(scope="module")
def output(domain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("actions")
    call("run", domain / "domainlm.yaml", f"output={folder}", "arms=[base,rag]")
    return folder


def test_optimize_tries_many_and_explains(domain: Path, output: Path) -> None:
    words = ("optimize", domain / "domainlm.yaml", f"output={output}", "--trials")
    found = json.loads(call(*words, 8, "--json"))
    assert len(found["candidates"]) == 8 and found["complete"]
    assert found["reason"] and found["chosen"] in {c["name"] for c in found["candidates"]}
    assert (output / "tiny" / "search.json").exists()
    shown = call(*words, 3)
    assert "Recommended:" in shown and "What each stage buys" in shown and "rag:" in shown


def test_diagnose_accounts_for_every_miss(domain: Path, output: Path) -> None:
    words = ("diagnose", domain / "domainlm.yaml", "--set", f"output={output}")
    found = json.loads(call(*words, "--json"))
    assert found["arm"] == "rag"
    assert sum(n for _, n in found["by_step"]) == found["missed"] == len(found["losses"]) > 0
    one = found["losses"][0]["question_id"]
    assert "lost at" in call(*words, one)
    stage = json.loads((output / "tiny" / "result.json").read_text())["rag"]["retrieve"][0]["use"]
    replayed = call(*words, one, "--arm", "rag", "--set", "arms=[base,rag]", "--without", stage)
    assert f"without {stage}" in replayed


def test_graph_is_shown_mended_and_exported(domain: Path, output: Path, tmp_path: Path) -> None:
    words = ("graph", domain / "domainlm.yaml", "--set", f"output={output}")
    found = json.loads(call(*words, "--json"))
    first, second = (e["entity"] for e in found["entities"][:2])
    shown = call(*words, "--merge", f"{first}={second}", "--export", tmp_path / "out")
    assert f"{first} counts as {second}" in shown
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "graph.graphml",
        "nodes.csv",
        "edges.csv",
    }
    assert first in call(*words, second) or second in call(*words, second)
    assert "1 merges" not in call(*words, "--unmerge", first)
