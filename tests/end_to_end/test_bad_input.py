"""Each mistake gives one sentence with the value and the fix, exit code 2, and no traceback."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.end_to_end.conftest import domainlm, inside

CASES = {
    "unknown key": (["trainig.rank=8"], "trainig"),
    "unknown nested key": (["training.rnk=8"], "did you mean 'rank'"),
    "value out of range": (["split.dev=2"], "split.dev"),
    "missing documents": (["documents=nowhere"], "nowhere"),
    "missing questions": (["questions=nowhere.jsonl"], "nowhere.jsonl"),
    "absent model": (["model=local:/no/such/model", "arms=[base]"], "/no/such/model"),
    "unknown model": (["model=embeded"], "did you mean embedded"),
    "unknown stage": (["rag.retrieve=[{use: hybird}]"], "did you mean 'hybrid'"),
    "unknown stage setting": (["rag.retrieve=[{use: hybrid, wieght: 1}]"], "weight"),
    "hosted model cannot train": (["model=openai:x"], "arms"),
    "price without an entry": (["cost.hardware=h100_hour"], "h100_hour"),
    "bad name": (["name=../up"], "folder name"),
}


def test_a_child_process_says_it_too(domain: Path, offline: dict[str, str]) -> None:
    child = domainlm("run", domain / "domainlm.yaml", "trainig.rank=8", env=offline)
    out, err = child.communicate(timeout=120)
    assert child.returncode == 2 and not out
    assert err.startswith("domainlm: ") and "trainig" in err


@pytest.mark.parametrize("case", CASES)
def test_a_mistake_is_one_sentence(case: str, domain: Path, tmp_path: Path) -> None:
    overrides, expected = CASES[case]
    code, _, err = inside("run", domain / "domainlm.yaml", f"output={tmp_path}", *overrides)
    assert code == 2, err
    sentence = next(line for line in err.splitlines() if line.startswith("domainlm: "))
    assert expected in sentence
    assert "Traceback" not in err


@pytest.fixture
def copy(domain: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "copy"
    shutil.copytree(domain, folder)
    return folder


def fails(folder: Path, *overrides: str) -> str:
    code, _, err = inside("run", folder / "domainlm.yaml", *overrides)
    assert code == 2, err
    assert "Traceback" not in err
    return err


def test_empty_corpus(copy: Path) -> None:
    shutil.rmtree(copy / "documents")
    (copy / "documents").mkdir()
    assert "document" in fails(copy)


def test_no_questions(copy: Path) -> None:
    (copy / "questions.jsonl").write_text("")
    assert "question" in fails(copy)


def test_an_answer_is_missing(copy: Path) -> None:
    (copy / "questions.jsonl").write_text('{"id": "a", "text": "What is said?"}\n', "utf-8")
    assert "give `answer`" in fails(copy)


def test_no_reference_answers(copy: Path) -> None:
    """A BEIR folder labels documents, not answers: there is nothing to score an arm against."""
    root = copy / "documents"
    names = sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())
    beir = copy / "beir"
    (beir / "qrels").mkdir(parents=True)
    queries = [json.dumps({"_id": name, "text": f"What of {name}?"}) for name in names]
    (beir / "queries.jsonl").write_text("\n".join(queries), "utf-8")
    qrels = "".join(f"{name}\t{name}\t1\n" for name in names)
    (beir / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + qrels, "utf-8")
    assert "has a reference answer to score against" in fails(copy, f"questions={beir}")


def test_duplicate_ids(copy: Path) -> None:
    text = (copy / "questions.jsonl").read_text("utf-8")
    (copy / "questions.jsonl").write_text(text + text.splitlines()[0] + "\n", "utf-8")
    assert "occurs 2 times" in fails(copy)


def test_gold_document_absent_from_all(copy: Path) -> None:
    (copy / "questions.jsonl").write_text(
        '{"id": "a", "text": "What?", "references": ["x"], "doc_ids": ["gone.txt"]}\n'
    )
    assert "gone.txt" in fails(copy)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_output(copy: Path, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    assert str(locked) in fails(copy, f"output={locked}")


def test_output_that_is_a_file(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    assert "taken" in fails(copy, f"output={tmp_path / 'taken'}")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_is_one_sentence(tmp_path: Path) -> None:
    from domainlm.artifacts import Log
    from domainlm.errors import DataError

    (tmp_path / "log.jsonl").symlink_to("/dev/full")
    with pytest.raises(DataError, match="disk .* is full"):
        Log(tmp_path / "log.jsonl", int).append([1])
