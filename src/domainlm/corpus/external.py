"""Answers of a system outside this project: one JSON record a line."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from domainlm.errors import DataError
from domainlm.schema import Answer, Passage

_ID = ("question_id", "id", "qid")
_TEXT = ("text", "answer", "response", "output")
_NUMBERS = ("latency_s", "cost_usd", "tokens_in", "tokens_out")


@dataclass(frozen=True, slots=True)
class External:
    """Answers of one external system, and what each cost where the file says so."""

    name: str
    answers: tuple[Answer, ...]
    costs: dict[str, float]


def is_answers(path: Path) -> bool:
    """Whether a path looks like a file of answers."""
    return path.suffix.lower() in (".jsonl", ".ndjson") and not path.is_dir()


def load_answers(path: Path, name: str = "") -> External:
    """Read `{"question_id": …, "text": …}` records; `latency_s`, `cost_usd`, `tokens_in`,
    `tokens_out`, `failed` and `passages` (`doc_id` and `text` each) are optional.

    Args:
        path: The file.
        name: What the system is called; by default the file's name.

    Raises:
        DataError: the file is missing or empty, or a record is broken or answers a question twice.
    """
    name = name or path.stem
    try:
        lines = path.read_text("utf-8-sig").split("\n")
    except FileNotFoundError:
        raise DataError(
            f"answers file {path} does not exist; give a JSONL file of question_id and text"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"answers file {path} is not readable as UTF-8 text ({error})") from None
    answers: dict[str, Answer] = {}
    costs: dict[str, float] = {}
    for n, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path.name}, line {n}"
        record = _record(line, where)
        question_id = str(_first(record, _ID, where))
        if question_id in answers:
            raise DataError(
                f"{where} answers question {question_id!r} a second time; keep one answer each"
            )
        numbers = {key: _number(record, key, where) for key in _NUMBERS}
        failed = record.get("failed", False) is True
        text = "" if failed else _first(record, _TEXT, where)
        if not isinstance(text, str):
            raise DataError(f"{where}: the answer is {text!r:.60}; it must be a string")
        answers[question_id] = Answer(
            question_id,
            name,
            text.strip(),
            (),
            _passages(record, where),
            (),
            numbers["latency_s"] or 0.0,
            int(numbers["tokens_in"] or 0),
            int(numbers["tokens_out"] or 0),
            failed=failed,
        )
        if numbers["cost_usd"] is not None:
            costs[question_id] = numbers["cost_usd"]
    if not answers:
        raise DataError(f"{path} holds 0 answers; give one record with question_id and text a line")
    return External(name, tuple(answers.values()), costs)


def _record(line: str, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        raise DataError(f"{where} is not JSON: {line!r:.60}; write one record a line") from None
    if not isinstance(record, dict):
        raise DataError(f"{where} is {line!r:.60}; it must be a record with question_id and text")
    return record


def _first(record: dict[str, Any], names: tuple[str, ...], where: str) -> Any:
    found = next((record[n] for n in names if record.get(n) is not None), None)
    if found is None:
        raise DataError(
            f"{where} has no {names[0]} (it has {', '.join(map(str, record)) or 'nothing'}); "
            "each record needs question_id and text"
        )
    return found


def _number(record: dict[str, Any], key: str, where: str) -> float | None:
    value = record.get(key)
    if value is None:
        return None
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    if not plain or not math.isfinite(value) or value < 0:
        raise DataError(f"{where}: {key} is {value!r}; it must be a number of at least 0")
    return float(value)


def _passages(record: dict[str, Any], where: str) -> tuple[Passage, ...]:
    given = record.get("passages") or []
    if not isinstance(given, list) or not all(isinstance(p, dict) for p in given):
        raise DataError(f"{where}: passages must be a list of records with doc_id and text")
    return tuple(
        Passage(
            chunk_id=f"{p.get('doc_id', '')}#{n}",
            doc_id=str(p.get("doc_id", "")),
            title="",
            text=str(p.get("text", "")),
            start=int(p["start"]) if isinstance(p.get("start"), int) else 0,
            end=int(p["end"]) if isinstance(p.get("end"), int) else len(str(p.get("text", ""))),
            score=0.0,
        )
        for n, p in enumerate(given)
    )
