"""Whole runs on a tiny checkpoint: five arms, no network, nothing repeated, nothing lost."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.conftest import domainlm

# What may differ between two runs of the same thing: clocks, and what is computed from clocks.
_CLOCKS = {
    "created_at",
    "times",
    "seconds",
    "latency_s",
    "latency_p50_s",
    "latency_p95_s",
    "first_token_s",
    "latency",
    "cost_per_question_usd",
    "cost_per_correct_usd",
    "peak_memory_bytes",
    "roi",
    "money",
    "setups",
    "break_evens",
    "verdict",
    "output",
}


def without_clocks(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: without_clocks(v) for k, v in value.items() if k not in _CLOCKS}
    if isinstance(value, list):
        return [without_clocks(v) for v in value]
    return value


def finish(config: Path, output: Path, env: dict[str, str]) -> tuple[dict[str, Any], str]:
    child = domainlm("run", config, f"output={output}", env=env)
    _, err = child.communicate(timeout=300)
    assert child.returncode == 0, err
    return json.loads((output / "tiny" / "result.json").read_text("utf-8")), err


@pytest.fixture(scope="module")
def undisturbed(
    domain: Path, offline: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], Path]:
    output = tmp_path_factory.mktemp("runs")
    return finish(domain / "domainlm.yaml", output, offline)[0], output


def test_five_arms_answer_and_are_scored(undisturbed: tuple[dict[str, Any], Path]) -> None:
    result, output = undisturbed
    arms = {"base", "rag", "tuned", "tuned+rag", "raft"}
    asked = {q["id"] for q in result["questions"]}
    answered = {(a["arm"], a["question_id"]) for a in result["answers"]}
    assert answered == {(arm, q) for arm in arms for q in asked}
    assert {s["arm"] for s in result["summaries"]} == arms
    assert {a["name"] for a in result["adapters"]} == {"tuned", "raft"}
    assert result["verdict"]["sentence"]
    assert result["test_touches"] == 1
    assert {q["reason"] for q in result["data"]["quarantined"]} == {"empty", "mislabelled"}
    page = (output / "tiny" / "report.html").read_text("utf-8")
    assert len(page) < 5_000_000
    retrieved = [a for a in result["answers"] if a["arm"] == "rag"]
    # Full text alone may find nothing for a question that shares no word with any chunk.
    assert sum(bool(a["passages"]) for a in retrieved) > 0.8 * len(retrieved)


def test_passages_stand_verbatim_in_their_documents(
    undisturbed: tuple[dict[str, Any], Path], domain: Path
) -> None:
    from domainlm.corpus.readers import load_documents

    documents = {d.id: d.text for d in load_documents(domain / "documents")[0]}
    result, _ = undisturbed
    passages = [p for a in result["answers"] for p in a["passages"]]
    assert passages
    for p in passages:
        assert documents[p["doc_id"]][p["start"] : p["end"]] == p["text"]


def test_no_question_of_test_or_dev_is_trained_on(
    undisturbed: tuple[dict[str, Any], Path],
) -> None:
    result, output = undisturbed
    held_out = {q["id"] for q in result["questions"]}
    stages = output / "tiny" / "stages"
    rows = [
        row
        for path in stages.glob("rows-*.json")
        for row in json.loads(path.read_text("utf-8"))["value"]
    ]
    assert rows
    assert not {row["question_id"] for row in rows} & held_out


def test_a_second_run_repeats_nothing(
    undisturbed: tuple[dict[str, Any], Path], domain: Path, offline: dict[str, str]
) -> None:
    first, output = undisturbed
    again, err = finish(domain / "domainlm.yaml", output, offline)
    assert "Training" in err
    assert all("(kept)" in x for x in err.splitlines() if "Training" in x or "Answering" in x)
    assert without_clocks(again) == without_clocks(first)
    assert again["test_touches"] == 1


def test_killed_at_random_moments_the_result_is_the_same(
    undisturbed: tuple[dict[str, Any], Path],
    domain: Path,
    offline: dict[str, str],
    tmp_path: Path,
) -> None:
    first, _ = undisturbed
    rng = random.Random(20)
    stages = tmp_path / "tiny" / "stages"

    def after(number: int, wait: float) -> subprocess.Popen[str]:
        """A run in which so many stages were finished, and a moment more."""
        child = domainlm("run", domain / "domainlm.yaml", f"output={tmp_path}", env=offline)
        while len(list(stages.glob("*.json"))) < number and child.poll() is None:
            time.sleep(0.02)
        time.sleep(wait)
        return child

    # By stages and not by the clock: machines differ, and a finished run cannot be interrupted.
    child = after(3, 0.0)
    child.send_signal(signal.SIGINT)
    assert "finished work is kept" in child.communicate(timeout=60)[1]
    assert child.returncode == 130
    for number in (4, 6, 8, 11):
        child = after(number, rng.uniform(0.0, 1.0))
        child.kill()
        child.communicate()
    result, _ = finish(domain / "domainlm.yaml", tmp_path, offline)
    assert without_clocks(result) == without_clocks(first)
    assert not list((tmp_path / "tiny").rglob("*.tmp"))


def test_one_changed_document_touches_only_its_chunks(
    undisturbed: tuple[dict[str, Any], Path],
    domain: Path,
    offline: dict[str, str],
    tmp_path: Path,
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(domain, copy)
    ingested = [run_json(copy, tmp_path, offline)]
    changed = next((copy / "documents" / "sites").glob("*.html"))
    text = changed.read_text("utf-8")
    changed.write_text(text.replace("</body>", "<p>A new paragraph closes it.</p></body>"), "utf-8")
    ingested.append(run_json(copy, tmp_path, offline))
    assert ingested[0]["added"] == ingested[0]["chunks"]
    assert 0 < ingested[1]["added"] < 10
    assert ingested[1]["kept"] > 0.8 * ingested[0]["chunks"]


def run_json(folder: Path, output: Path, env: dict[str, str]) -> dict[str, Any]:
    child = domainlm("ingest", folder / "domainlm.yaml", f"output={output}", "--json", env=env)
    out, err = child.communicate(timeout=120)
    assert child.returncode == 0, err
    return json.loads(out)
