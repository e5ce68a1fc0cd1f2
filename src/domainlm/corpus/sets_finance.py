"""TAT-QA and FinanceBench: questions about tables and text of financial reports."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from domainlm.corpus.formats_common import labelled_line, one_line
from domainlm.corpus.quantities import is_quantity
from domainlm.corpus.sets_common import (
    YES_NO,
    PublicSet,
    document,
    gathered,
    list_of,
    records,
    text_of,
    texts_of,
    yes_or_no,
)
from domainlm.errors import DataError
from domainlm.schema import Document, Question, Task

_SCALES = {"": "", "thousand": " thousand", "million": " million", "billion": " billion"}
_SCALES |= {"percent": " %"}
_LONG = 12
"""Words from which a FinanceBench answer is an explanation rather than a fact."""


def tatqa(path: Path) -> PublicSet:
    """TAT-QA (Zhu et al., 2021), its JSON file: one document per table with its paragraphs.

    A question is asked of its own document, since "What is the change in Other?" means nothing
    elsewhere. A number is numeric, with its scale in the reference; text and lists of spans are
    extractive.
    """
    documents: list[Document] = []
    questions: list[Question] = []
    for where, row in records(path):
        table = row.get("table")
        if not isinstance(table, dict):
            raise DataError(f"{where} has no `table`; check `format`")
        doc_id = text_of(table, f"{where}, table", "uid")
        cells = _cells(list_of(table, f"{where}, table", "table"))
        lines = table_lines(cells)
        paragraphs = [p for p in list_of(row, where, "paragraphs") if isinstance(p, dict)]
        ordered = sorted(paragraphs, key=lambda p: str(p.get("order", "")).zfill(4))
        texts = {str(p.get("order", "")): " ".join(texts_of(p.get("text"))) for p in ordered}
        body = "\n\n".join([*texts.values(), "\n".join(lines)])
        title = next((line for line in texts.values() if line), "")
        title = re.split(r"(?<=[a-z])[.:]\s", title, maxsplit=1)[0]
        title = title if len(title) <= 80 else " ".join(title.split()[:8])
        documents.append(document(doc_id, title, body, path.name))
        for qa in list_of(row, where, "questions"):
            if not isinstance(qa, dict):
                raise DataError(f"{where}: {str(qa)[:60]!r} is no question; check `format`")
            questions.append(_tatqa_question(qa, where, doc_id, lines, texts))
    return gathered(path, documents, questions)


def _tatqa_question(
    qa: dict[str, Any], where: str, doc_id: str, lines: Sequence[str], texts: dict[str, str]
) -> Question:
    id_ = text_of(qa, f"{where}, question", "uid")
    where = f"{where}, question {id_!r}"
    scale = str(qa.get("scale") or "").lower()
    if scale not in _SCALES:
        raise DataError(f"{where} has the scale {scale!r}; use one of {', '.join(_SCALES)[2:]}")
    answers = texts_of(qa.get("answer"))
    if not answers:
        raise DataError(f"{where} has no `answer`; check `format`")
    task: Task = "numeric" if len(answers) == 1 and is_quantity(answers[0]) else "extractive"
    reference = "; ".join(answers)
    if task == "numeric" or all(map(is_quantity, answers)):
        known = _SCALES[scale].strip().lower()
        reference += "" if known in reference.lower() else _SCALES[scale]
    elif qa.get("answer_type") in ("arithmetic", "count"):
        raise DataError(f"{where} is {qa['answer_type']}, but {reference[:60]!r} is no number")
    return Question(
        id_,
        text_of(qa, where, "question"),
        (reference,),
        task,
        (doc_id,),
        _tatqa_evidence(qa, answers, lines, texts),
        scope=(doc_id,),
        metadata={"answer_type": str(qa.get("answer_type", ""))},
    )


def _tatqa_evidence(
    qa: dict[str, Any], answers: Sequence[str], lines: Sequence[str], texts: dict[str, str]
) -> tuple[str, ...]:
    """Table lines that hold a number of the answer or its derivation, and the paragraphs named."""
    found: list[str] = []
    if "table" in str(qa.get("answer_from", "")):
        wanted = {_bare(a) for a in answers}
        wanted |= {_bare(n) for n in re.findall(r"[\d.,]*\d", str(qa.get("derivation", "")))}
        # Every line has the years of its columns.
        wanted = {w for w in wanted if not re.fullmatch("(?:19|20)\\d\\d", w)}
        found += [line for line in lines if wanted & {_bare(n) for n in re.split(r"[;|]|: ", line)}]
    if "text" in str(qa.get("answer_from", "")):
        found += [texts[order] for order in texts_of(qa.get("rel_paragraphs")) if texts.get(order)]
    return tuple(dict.fromkeys(found))


def _bare(cell: str) -> str:
    return re.sub(r"[\s$€£%(),]", "", cell)


def _cells(rows: Sequence[Any]) -> list[list[str]]:
    return [[one_line(str(c)) for c in row] for row in rows if isinstance(row, list)]


def table_lines(rows: Sequence[Sequence[str]]) -> list[str]:
    """A table as lines that stand by themselves: `Other | 2019: 44.1; 2018: 56.7`.

    Leading rows without a first cell name the columns; one that spans several names them all.
    """
    width = max((len(r) for r in rows), default=0)
    header = [""] * width
    lines: list[str] = []
    body = False
    for row in rows:
        filled = [c for c in row if c]
        if not filled:
            continue
        if not body and not row[0] and len(filled) > 1:
            header = [
                " ".join(filter(None, p)) for p in zip(header, _spread(row, width), strict=True)
            ]
        elif len(filled) == 1:
            lines.append(filled[0])
        else:
            body = True
            values = labelled_line(header[1:], list(row[1:]))
            lines.append(f"{row[0]} | {values}" if row[0] else values)
    return lines


def _spread(row: Sequence[str], width: int) -> list[str]:
    """Cells of a heading row, each over the empty ones to its right."""
    spread, last = [], ""
    for n in range(width):
        last = row[n] if n < len(row) and row[n] else last
        spread.append(last)
    return spread


def financebench(path: Path) -> PublicSet:
    """FinanceBench (Islam et al., 2023), its JSONL file: one document per filing, which holds the
    pages that the evidence of its questions names. With the filings at hand, set `documents` to
    their folder.

    An answer that is one number is numeric, "Yes" or "No" closed form, of more than 12 words long
    form, else extractive.
    """
    pages: dict[str, dict[int, str]] = {}
    questions: list[Question] = []
    for where, row in records(path):
        id_ = text_of(row, where, "financebench_id")
        answer = text_of(row, where, "answer")
        named: list[str] = []
        quotes: list[str] = []
        for evidence in list_of(row, where, "evidence"):
            if not isinstance(evidence, dict):
                raise DataError(f"{where}: {str(evidence)[:60]!r} is no evidence; check `format`")
            name = text_of({**row, **evidence}, where, "doc_name")
            number = evidence.get("evidence_page_num")
            text = text_of(evidence, where, "evidence_text_full_page", "evidence_text")
            place = number if isinstance(number, int) else 0
            pages.setdefault(name, {})[place] = _tidy_table(text)
            named.append(name)
            quotes += [_tidy_table(t) for t in texts_of(evidence.get("evidence_text"))]
        said = yes_or_no(answer)
        task: Task = "long_form" if len(answer.split()) > _LONG else "extractive"
        task = "closed_form" if said else "numeric" if is_quantity(answer) else task
        questions.append(
            Question(
                id_,
                text_of(row, where, "question"),
                (said or answer,),
                task,
                tuple(dict.fromkeys(named)),
                tuple(dict.fromkeys(quotes)),
                YES_NO if said else (),
                metadata={"company": str(row.get("company", ""))},
            )
        )
    documents = [
        document(
            name,
            name.replace("_", " "),
            "\n\n".join(p for _, p in sorted(found.items())),
            path.name,
        )
        for name, found in pages.items()
    ]
    return gathered(path, documents, questions)


def _tidy_table(text: str) -> str:
    """Table cells that a PDF put on lines of their own, joined to rows: a cell that begins with a
    letter begins a row.
    """
    rows: list[str] = []
    for line in (one_line(raw) for raw in text.split("\n")):
        if not line:
            continue
        cell = len(line) <= 24 and not re.match(r"[^\W\d_]", line)
        if rows and cell:
            rows[-1] += f" {line}"
        else:
            rows.append(line)
    return "\n".join(rows)
