"""Plain text, CSV/TSV, JSON and JSON Lines."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

from domainlm.corpus.formats_common import (
    Draft,
    Limits,
    TextBuilder,
    check_length,
    clean,
    decode,
    decode_raw,
    is_header,
    labelled_line,
    one_line,
    table_line,
)

_TEXT_KEYS = ("text", "content", "contents", "body", "abstract")
_ID_KEYS = ("id", "_id", "doc_id", "docid")
_TITLE_KEYS = ("title", "name", "headline", "subject")
_MAX_FIELD = 16_000_000


def read_text(data: bytes, limits: Limits) -> list[Draft]:
    """The file as it is, decoded."""
    text = decode(data)
    check_length(len(text), limits.max_chars)
    return [Draft(text)]


def read_csv(data: bytes, limits: Limits) -> list[Draft]:
    """One draft; each row a line `column: value; …` with a `row` anchor (data rows from 1)."""
    csv.field_size_limit(_MAX_FIELD)  # the default of 128 kB refuses files with long text cells
    text = decode(data)
    rows = [r for r in csv.reader(io.StringIO(text), delimiter=delimiter(text)) if any(r)]
    header = [one_line(c) for c in rows[0]] if rows and is_header(rows[0]) else []
    builder = TextBuilder(limits)
    for number, row in enumerate(rows[1:] if header else rows, 1):
        builder.mark("row", str(number))
        builder.add(labelled_line(header, row) if header else table_line(row))
    text, anchors = builder.build()
    return [Draft(text, anchors=anchors, metadata={"columns": " | ".join(header)})]


def delimiter(text: str) -> str:
    """The character among `, ; tab |` that splits the first line most often; comma on a tie."""
    line = text.lstrip("\n").split("\n", 1)[0]
    return max(",;\t|", key=lambda mark: (line.count(mark), mark == ","))


def read_jsonl(data: bytes, limits: Limits) -> list[Draft]:
    """One draft per line; a line that is no JSON is refused by itself."""
    drafts: list[Draft] = []
    for number, line in enumerate(decode_raw(data).split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            problem = f"line {number} is not JSON: {error}"
            drafts.append(Draft("", record=str(number), refused=("corrupt", problem)))
            continue
        drafts.append(_record(value, len(drafts) + 1))
    return _checked(drafts, limits)


def read_json(data: bytes, limits: Limits) -> list[Draft]:
    """One draft per record or SQuAD article; JSON of any other shape becomes one readable text."""
    value = json.loads(decode_raw(data))
    records = value if isinstance(value, list) else None
    if isinstance(value, dict):
        lists = [v for v in value.values() if isinstance(v, list) and v]
        records = lists[0] if len(lists) == 1 else None
    if records and all(isinstance(r, dict) and "paragraphs" in r for r in records):
        return _checked([_article(r, n) for n, r in enumerate(records, 1)], limits)
    if records and all(isinstance(r, dict) and _first(r, _TEXT_KEYS) for r in records):
        return _checked([_record(r, n) for n, r in enumerate(records, 1)], limits)
    if isinstance(value, dict) and _first(value, _TEXT_KEYS):
        record = _record(value, 1)
        return _checked([Draft(record.text, record.heading, (), record.metadata)], limits)
    return _checked([Draft("\n".join(_pretty(value)))], limits)


def _first(record: dict[str, Any], keys: tuple[str, ...]) -> str:
    return next((str(record[k]) for k in keys if record.get(k) not in (None, "", [], {})), "")


def _record(value: Any, number: int) -> Draft:
    if not isinstance(value, dict):
        return Draft("\n".join(_pretty(value)), record=str(number))
    found = next((k for k in _TEXT_KEYS if isinstance(value.get(k), str) and value[k].strip()), "")
    text = value[found] if found else "\n".join(_pretty(value))
    metadata = {
        str(k): str(v)
        for k, v in value.items()
        if isinstance(v, str | int | float) and k not in (*_TEXT_KEYS, *_ID_KEYS, *_TITLE_KEYS)
    }
    short = {k: v for k, v in metadata.items() if len(v) <= 200}
    name = one_line(_first(value, _ID_KEYS)) or str(number)
    return Draft(text, one_line(_first(value, _TITLE_KEYS)), (), short, name)


def _article(value: dict[str, Any], number: int) -> Draft:
    """A SQuAD article: its paragraphs' contexts are the document."""
    paragraphs = [p for p in value["paragraphs"] if isinstance(p, dict)]
    text = "\n\n".join(str(p.get("context", "")) for p in paragraphs)
    title = one_line(str(value.get("title") or ""))
    known = str(paragraphs[0].get("document_id") or "") if paragraphs else ""
    return Draft(text, title, (), {}, title or known or str(number))


def _checked(drafts: list[Draft], limits: Limits) -> list[Draft]:
    """Make record names unique (a repeated one gets its position) and refuse oversized records."""
    seen: set[str] = set()
    checked: list[Draft] = []
    for number, draft in enumerate(drafts, 1):
        record = draft.record
        if record and record in seen:
            record = f"{record}~{number}"
        seen.add(record)
        refused = draft.refused
        if refused is None and len(draft.text) > limits.max_chars:
            refused = ("too_large", f"{len(draft.text):,} characters; at most {limits.max_chars:,}")
        elif refused is None and record and not draft.text.strip():
            refused = ("empty", "the record has no text")
        checked.append(
            Draft(clean(draft.text), draft.heading, draft.anchors, draft.metadata, record, refused)
        )
    return checked


def _pretty(value: Any, indent: int = 0) -> list[str]:
    """JSON as indented `key: value` lines: quotes and braces only cost tokens."""
    pad = "  " * indent
    if isinstance(value, dict):
        lines: list[str] = []
        for key, inner in value.items():
            nested = isinstance(inner, dict | list) and inner
            lines += [f"{pad}{key}:"] if nested else [f"{pad}{key}: {_scalar(inner)}"]
            lines += _pretty(inner, indent + 1) if nested else []
        return lines
    if isinstance(value, list):
        lines = []
        for inner in value:
            if isinstance(inner, dict | list):
                lines += _pretty(inner, indent)
                lines.append("")
            else:
                lines.append(f"{pad}- {_scalar(inner)}")
        return lines
    return [f"{pad}{_scalar(value)}"]


def _scalar(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
