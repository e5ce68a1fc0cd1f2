"""The record of given answers: found by id, whatever happened to its file."""

from __future__ import annotations

from pathlib import Path

import pytest

from domainlm.artifacts import Log
from domainlm.feedback.asked import Asked
from domainlm.schema import Answer, Message, Question
from domainlm.server import answers as module
from domainlm.server.answers import Answers


def given(answers: Answers, n: int) -> str:
    answer = Answer(f"q{n}", "base", str(n), (Message("user", "?"),), (), (), 0.1, 9, 1)
    return answers.keep(Question(f"q{n}", f"What is {n}?"), answer).id


def test_every_line_is_read_once_however_often_somebody_guesses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "asked.jsonl"
    ids = [given(Answers(path), n) for n in range(20)]
    parsed: list[bytes] = []
    real = module._parsed
    monkeypatch.setattr(module, "_parsed", lambda line: parsed.append(line) or real(line))
    fresh = Answers(path)
    assert [fresh.find(i).answer.text for i in ids] == [str(n) for n in range(20)]
    # Each line once for its id, and once more when it was asked for.
    assert len(parsed) <= 2 * len(ids) + 1
    parsed.clear()
    assert all(fresh.get(f"guess-{n}") is None for n in range(50))
    assert len([line for line in parsed if line]) == 0


def test_what_another_process_adds_is_found(tmp_path: Path) -> None:
    path = tmp_path / "asked.jsonl"
    mine, other = Answers(path), Answers(path)
    first = given(mine, 1)
    assert mine.get("none") is None
    second = given(other, 2)
    assert mine.find(second).answer.text == "2" and other.find(first).answer.text == "1"


def test_a_torn_line_and_a_file_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "asked.jsonl"
    first = given(Answers(path), 1)
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    reader = Answers(path)
    assert reader.get(first) is None
    # The writer was killed; the next one starts a line of its own.
    second = given(Answers(path), 2)
    assert reader.find(second).answer.text == "2" and reader.get(first) is None
    log = Log(path, Asked)
    log.rewrite(log.read())
    third = given(Answers(path), 3)
    again = Answers(path)
    assert again.find(third).answer.text == "3" and reader.find(third).answer.text == "3"
    assert reader.find(second).answer.text == "2"


def test_what_was_forgotten_is_found_under_no_id(tmp_path: Path) -> None:
    path = tmp_path / "asked.jsonl"
    ids = [given(Answers(path), n) for n in range(6)]
    reader = Answers(path)
    assert reader.get("none") is None
    log = Log(path, Asked)
    for _ in range(2):
        # The file system may give the file its first number again.
        log.rewrite(log.read()[1:])
    later = [given(Answers(path), n) for n in range(10, 16)]
    assert [reader.get(i) for i in ids[:2]] == [None, None]
    assert [reader.find(i).id for i in [*ids[2:], *later]] == [*ids[2:], *later]
