"""Questions from JSONL, CSV, JSON, SQuAD and BEIR files, and their link to the documents."""

from __future__ import annotations

import ast
import csv
import dataclasses
import gzip
import io
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast, get_args

from domainlm.corpus.formats_common import clean, decode_raw
from domainlm.corpus.formats_data import delimiter
from domainlm.corpus.quantities import quantities
from domainlm.errors import DataError
from domainlm.schema import ABSTENTION, TASKS, Document, Question, Split, Task

_ALIASES = {
    "id": ("id", "_id", "qid", "question_id", "query_id"),
    "text": ("question", "query", "text", "claim", "input"),
    "references": (
        "references reference answers answer expected_answer ground_truth gold_answer".split()
    ),
    "doc_ids": (
        "doc_ids doc_id documents document docs gold_documents supporting supporting_titles "
        "source_docs doc_name".split()
    ),
    "evidence": ("evidence", "evidences", "passages_gold"),
    "choices": ("choices", "options"),
    "scope": ("scope",),
    "task": ("task",),
    "split": ("split",),
}
_KNOWN = {alias for aliases in _ALIASES.values() for alias in aliases} | {"answer_aliases"}
_SPLITS = {"validation": "dev", "val": "dev", "valid": "dev", "": ""}
_MAX_METADATA = 500


def load_questions(path: Path) -> list[Question]:
    """Read a question file (`.gz` too) or a folder in BEIR layout.

    A record needs a question (`question`, `query` or `text`) and an answer (`answer`, `answers`,
    `reference` or `references`), or `task: unanswerable`. Gold documents come from `documents`,
    `doc_ids` or `doc_id`; without a `task`, choices make it closed form, an empty answer
    unanswerable and two documents multi-document. A split called "test" becomes `test_known` where
    train questions share the document, else `test_new`. SQuAD's several answers to a question
    become its references, and a question asked about several articles is confined to its own.

    Raises:
        DataError: the file is missing, broken or empty, or a record has no question, no answer,
            an unknown task or a repeated id; the message names file, line, value and fix.
    """
    if not path.exists():
        raise DataError(f"question file {str(path)!r} does not exist; check `questions`")
    if path.is_dir():
        return _load_folder(path)
    rows = list(read_rows(path))
    questions = _squad_questions(path, rows)
    if questions is None:
        questions = [_question(row, where, n) for n, (where, row) in enumerate(rows, 1)]
    if not questions:
        raise DataError(f"{path.name} has no questions; give at least one record with `question`")
    refuse_repeated(path, questions, [where for where, _ in rows])
    return _resolve_test(questions)


def check_documents(
    questions: Sequence[Question], documents: Sequence[Document]
) -> tuple[list[Question], list[tuple[str, str]]]:
    """Replace each document reference by the document's id; drop questions that lack theirs.

    A reference matches a document's id, file name, stem, record id or title, in that order.

    Returns:
        The questions kept, in order, and (question id, reason) of those dropped.

    Raises:
        DataError: no question is left.
    """
    find = _finder(documents)
    kept: list[Question] = []
    dropped: list[tuple[str, str]] = []
    for question in questions:
        found = [find(reference) for reference in (*question.doc_ids, *question.scope)]
        problem = next((reason for _, reason in found if reason), "")
        if problem:
            dropped.append((question.id, problem))
            continue
        ids = [doc_id for doc_id, _ in found]
        gold, scope = ids[: len(question.doc_ids)], ids[len(question.doc_ids) :]
        kept.append(
            dataclasses.replace(
                question, doc_ids=tuple(dict.fromkeys(gold)), scope=tuple(dict.fromkeys(scope))
            )
        )
    if not kept:
        why = dropped[0][1] if dropped else "there are no questions"
        raise DataError(
            f"none of {len(questions)} questions can be used ({why}); name documents by path, "
            "stem or title"
        )
    return kept, dropped


def _finder(documents: Sequence[Document]) -> Any:
    tables: list[defaultdict[str, dict[str, None]]] = [defaultdict(dict) for _ in range(5)]
    for doc in documents:
        path, _, record = doc.id.partition("#")
        name = path.rsplit("/", 1)[-1]
        stem = re.sub(r"\.\w{1,8}(\.gz)?$", "", name)
        for table, key in zip(tables, (doc.id, name, stem, record, doc.title), strict=True):
            if key and not (record and key in (name, stem)):
                table[_key(key)][doc.id] = None

    def find(reference: str) -> tuple[str, str]:
        for table in tables:
            ids = list(table.get(_key(reference), ()))
            if len(ids) == 1:
                return ids[0], ""
            if reference in ids:
                return reference, ""
            if ids:
                return "", f"gold document {reference!r} matches {len(ids)}: {', '.join(ids[:3])}"
        return "", f"gold document {reference!r} is not in the corpus"

    return find


def _key(text: str) -> str:
    return " ".join(text.replace("\\", "/").casefold().split()).removeprefix("./")


# --- files ----------------------------------------------------------------------------------


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
        return decode_raw(gzip.decompress(data) if path.suffix == ".gz" else data)
    except (OSError, EOFError) as error:
        raise DataError(f"{path.name} cannot be read ({error}); give a readable file") from error


def read_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """(where, record) pairs of a JSONL, CSV, TSV or JSON file (.gz too); `where` is "file, line n"
    for messages.

    Raises:
        DataError: the file cannot be read, is not valid or has an unknown type.
    """
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    suffix = suffix.lower()
    text = _text(path)
    if suffix in (".jsonl", ".ndjson"):
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                yield f"{path.name}, line {number}", _json(line, f"{path.name}, line {number}")
    elif suffix in (".csv", ".tsv"):
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter(text))
        try:
            for row in reader:
                yield f"{path.name}, line {reader.line_num}", {k: v for k, v in row.items() if k}
        except csv.Error as error:
            where = f"{path.name}, line {reader.line_num}"
            raise DataError(f"{where} is not valid CSV ({error}); correct or remove it") from error
    elif suffix == ".json":
        value = _json(text, path.name)
        if isinstance(value, dict):
            lists = [value[k] for k in ("data", "questions", "rows") if k in value]
            value = lists[0] if lists else [{"id": k, **v} for k, v in _records(value, path)]
        for number, row in enumerate(value if isinstance(value, list) else [value], 1):
            yield f"{path.name}, record {number}", row
    else:
        raise DataError(
            f"question file {path.name!r} has an unknown type {suffix!r}; use .jsonl, .csv, .tsv "
            "or .json (.gz too)"
        )


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # also a number of too many digits
        raise DataError(f"{where} is not valid JSON ({error}); correct or remove it") from error


def _records(value: dict[str, Any], path: Path) -> list[tuple[str, dict[str, Any]]]:
    if not all(isinstance(v, dict) for v in value.values()):
        raise DataError(f"{path.name} is one JSON object; give a list of question records")
    return list(value.items())


def _load_folder(folder: Path) -> list[Question]:
    queries = _first_file(folder, "queries.jsonl*", "a BEIR folder needs it")
    qrels = _first_file(folder, "qrels.tsv", "", required=False)
    if qrels is None:
        named = [folder / "qrels" / f"{s}.tsv" for s in ("test", "dev", "train")]
        qrels = next((p for p in named if p.exists()), None)
    if queries is None or qrels is None:
        raise DataError(f"{str(folder)!r} has no qrels.tsv or qrels/test.tsv; add one")
    return _beir_questions(queries, qrels)


def _first_file(folder: Path, pattern: str, why: str, required: bool = True) -> Path | None:
    found = sorted(folder.glob(pattern))
    if not found and required:
        raise DataError(f"{str(folder)!r} has no {pattern}; {why}, or name a question file")
    return found[0] if found else None


def _beir_questions(queries: Path, qrels: Path) -> list[Question]:
    relevant: dict[str, list[str]] = defaultdict(list)
    for number, line in enumerate(_text(qrels).split("\n"), 1):
        cells = line.split("\t") if "\t" in line else line.split()
        if not line.strip() or (number == 1 and not _is_number(cells[-1])):
            continue
        # TREC files have a constant second column; BEIR's have none.
        trec = "\t" not in line and len(cells) == 4
        row = [cells[0], *cells[2:]] if trec else cells
        if len(row) < 3 or not _is_number(row[2]):
            raise DataError(
                f"{qrels.name}, line {number}: {line[:80]!r} is not query, document, score; "
                "separate them by tabs"
            )
        if float(row[2]) > 0:
            relevant[row[0]].append(row[1])
    questions: list[Question] = []
    for where, row in read_rows(queries):
        if not isinstance(row, dict) or "_id" not in row or not str(row.get("text", "")).strip():
            raise DataError(f"{where} has no `_id` and `text`; give both")
        docs = tuple(dict.fromkeys(relevant.get(str(row["_id"]), ())))
        if docs:
            task: Task = "multi_document" if len(docs) > 1 else "extractive"
            questions.append(Question(str(row["_id"]), str(row["text"]), task=task, doc_ids=docs))
    if not questions:
        raise DataError(f"no query of {queries.name} has a relevant document in {qrels.name}")
    refuse_repeated(queries, questions)
    return questions


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


# --- records --------------------------------------------------------------------------------


def _question(row: Any, where: str, number: int) -> Question:
    if not isinstance(row, dict):
        raise DataError(f"{where}: {str(row)[:60]!r} is no record; give an object with `question`")
    row = {str(k).strip().lower(): v for k, v in row.items()}
    text = " ".join(_strings(_get(row, "text"))).strip()
    if not text:
        raise DataError(f"{where} has no question text; give `question`")
    answer = _get(row, "references")
    references = _distinct(
        [*_strings(answer, lists=False), *_strings(row.get("answer_aliases"), lists=False)]
    )
    if references == (ABSTENTION,):
        references = ()
    doc_ids = _distinct(_strings(_get(row, "doc_ids")))
    choices = _distinct(_strings(_get(row, "choices")))
    task = _task(row, where, references, doc_ids, choices)
    if task == "unanswerable":
        references = ()
    elif not references:
        raise DataError(
            f"{where}: question {text[:60]!r} has no answer; give `answer`, "
            "or `task: unanswerable` if the documents do not hold it"
        )
    _check_numeric(row, where, task, references)
    split = str(_get(row, "split") or "").strip().lower()
    split = _SPLITS.get(split, split)
    if split not in (*get_args(Split), "test"):
        raise DataError(
            f"{where}: split {split!r} is unknown; use train, dev, test_known, test_new or none"
        )
    metadata = {
        k: str(v)
        for k, v in row.items()
        if k not in _KNOWN and isinstance(v, str | int | float) and len(str(v)) <= _MAX_METADATA
    }
    origin = "synthetic" if metadata.pop("origin", "") == "synthetic" else "human"
    return Question(
        id=str(_get(row, "id") or f"q{number}").strip(),
        text=text,
        references=references,
        task=task,
        doc_ids=doc_ids,
        evidence=_distinct(_strings(_get(row, "evidence"), lists=False)),
        choices=choices,
        scope=_distinct(_strings(_get(row, "scope"))),
        split=cast(Split, split),
        origin=cast(Any, origin),
        metadata=metadata,
    )


def _check_numeric(
    row: dict[str, Any], where: str, task: Task, references: tuple[str, ...]
) -> None:
    bare = next((r for r in references if not quantities(r)), None) if task == "numeric" else None
    if bare is not None:
        raise DataError(f"{where}: task numeric, but the answer {bare[:60]!r} holds no number")
    tolerance = row.get("tolerance")
    if tolerance not in (None, "") and not (
        _is_number(str(tolerance)) and 0 <= float(tolerance) < 1
    ):
        raise DataError(f"{where}: tolerance {tolerance!r:.60} is no share; give 0 to below 1")


def _get(row: dict[str, Any], name: str) -> Any:
    """The first alias that holds something, else None."""
    return next((row[a] for a in _ALIASES[name] if row.get(a) not in (None, "", [], {})), None)


def _task(
    row: dict[str, Any],
    where: str,
    references: tuple[str, ...],
    doc_ids: tuple[str, ...],
    choices: tuple[str, ...],
) -> Task:
    task = str(_get(row, "task") or "").strip().lower().replace("-", "_")
    if task:
        if task not in TASKS:
            raise DataError(f"{where}: task {task!r} is unknown; use one of {', '.join(TASKS)}")
        return task
    if not references and (
        row.get("is_impossible") is True or any(a in row for a in _ALIASES["references"])
    ):
        return "unanswerable"
    if choices:
        return "closed_form"
    return "multi_document" if len(doc_ids) > 1 else "extractive"


def _strings(value: Any, lists: bool = True) -> list[str]:
    """Strings of a value: a list, JSON or Python list in a string, dicts with text, or a scalar.

    With `lists`, a string also splits at ";" or "|", as table cells hold several names.
    """
    if value is None:
        return []
    if isinstance(value, list | tuple):
        return [s for item in value for s in _strings(item, lists=False)]
    if isinstance(value, dict):
        inner = next((value[k] for k in ("text", "answer", "evidence_text") if k in value), None)
        return _strings(inner, lists=False)
    text = ("true" if value else "false") if isinstance(value, bool) else clean(str(value)).strip()
    if text.startswith("[") and text.endswith("]"):
        try:
            parsed = ast.literal_eval(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            parsed = None
        if isinstance(parsed, list) and all(isinstance(p, str | int | float) for p in parsed):
            return _strings(parsed, lists=False)
    if lists and ("|" in text or ";" in text):
        return [part.strip() for part in re.split(r"[|;]", text) if part.strip()]
    return [text] if text else []


def _distinct(values: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(v.strip() for v in values if v.strip()))


def _squad_questions(path: Path, rows: list[tuple[str, Any]]) -> list[Question] | None:
    """The questions of a SQuAD file, or None where it is not one."""
    if not rows or not isinstance(rows[0][1], dict) or "paragraphs" not in rows[0][1]:
        return None
    asked: dict[str, set[str]] = defaultdict(set)
    found: list[tuple[str, str, dict[str, Any]]] = []
    for number, (where, article) in enumerate(rows, 1):
        for paragraph in article.get("paragraphs", ()):
            title = str(article.get("title") or paragraph.get("document_id") or number)
            for qa in paragraph.get("qas", ()):
                found.append((where, title, qa))
                asked[str(qa.get("question", ""))].add(title)
    questions: list[Question] = []
    for n, (where, title, qa) in enumerate(found, 1):
        row = {k: v for k, v in qa.items() if k != "answers"}
        answers = _distinct(_strings(qa.get("answers"), lists=False))
        question = _question({**row, "answers": answers, "doc_ids": [title]}, where, n)
        shared = len(asked[str(qa.get("question", ""))]) > 1
        questions.append(
            dataclasses.replace(
                question, evidence=question.references, scope=(title,) if shared else ()
            )
        )
    return questions


def refuse_repeated(path: Path, questions: Sequence[Question], where: Sequence[str] = ()) -> None:
    """Check that ids are unique.

    Raises:
        DataError: one is not; the message names it.
    """
    counts = Counter(q.id for q in questions)
    repeated = next((i for i, q in enumerate(questions) if counts[q.id] > 1), None)
    if repeated is None:
        return
    last = max(i for i, q in enumerate(questions) if q.id == questions[repeated].id)
    place = where[last] if len(where) == len(questions) else path.name
    raise DataError(
        f"{place}: question id {questions[repeated].id!r} occurs {counts[questions[repeated].id]} "
        "times; ids must be unique"
    )


def _resolve_test(questions: list[Question]) -> list[Question]:
    """Say which "test" a question belongs to: known documents, or new ones."""
    known = {d for q in questions if q.split == "train" for d in q.doc_ids}
    return [
        dataclasses.replace(q, split="test_known" if known.intersection(q.doc_ids) else "test_new")
        if cast(str, q.split) == "test"
        else q
        for q in questions
    ]
