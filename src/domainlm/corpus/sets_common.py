"""What the readers of public sets share: records checked field by field, documents, yes and no."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from domainlm.corpus.formats_common import clean, one_line
from domainlm.corpus.questions import read_rows, refuse_repeated
from domainlm.errors import DataError
from domainlm.schema import Document, Question

YES_NO = ("yes", "no")


@dataclass(frozen=True, slots=True)
class PublicSet:
    """Documents and the questions about them."""

    documents: tuple[Document, ...]
    questions: tuple[Question, ...]


Reader = Callable[[Path], PublicSet]


def records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, record) pairs of a file.

    Raises:
        DataError: the file cannot be read, or a record is no object.
    """
    for where, row in read_rows(path):
        if not isinstance(row, dict):
            raise DataError(f"{where}: {str(row)[:60]!r} is no record; check `format`")
        yield where, row


def text_of(row: dict[str, Any], where: str, *names: str) -> str:
    """The first of the named fields that holds text.

    Raises:
        DataError: none does.
    """
    for name in names:
        value = row.get(name)
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            text = clean(str(value)).strip()
            if text:
                return text
    raise DataError(f"{where} has no {' or '.join(f'`{n}`' for n in names)}; check `format`")


def texts_of(value: Any) -> list[str]:
    """The non-empty texts of a list, or of a lone text."""
    items = value if isinstance(value, list | tuple) else [value]
    found = (clean(str(v)).strip() for v in items if isinstance(v, str | int | float))
    return [text for text in found if text]


def list_of(row: dict[str, Any], where: str, name: str) -> list[Any]:
    """A field that must be a list.

    Raises:
        DataError: it is missing or something else.
    """
    value = row.get(name)
    if not isinstance(value, list):
        raise DataError(f"{where} has no list `{name}`; check `format`")
    return value


def document(
    doc_id: str, title: str, text: str, source: str, metadata: dict[str, str] | None = None
) -> Document:
    """A plain-text document."""
    doc_id, text = clean(doc_id), clean(text)
    digest = hashlib.sha256(text.encode()).hexdigest()
    title = one_line(title)[:200] or doc_id
    return Document(doc_id, title, source, text, "text/plain", digest, (), metadata or {})


def gathered(path: Path, documents: Iterable[Document], questions: Sequence[Question]) -> PublicSet:
    """The set, once it is known to hold something and every id once.

    Raises:
        DataError: there are no documents or no questions, or an id repeats.
    """
    kept: dict[str, Document] = {}
    for doc in documents:
        if not doc.text.strip():
            continue
        if kept.setdefault(doc.id, doc).text != doc.text:
            raise DataError(f"{path.name}: two documents are called {doc.id!r}; rename one")
    if not kept or not questions:
        what = "documents" if not kept else "questions"
        raise DataError(f"{path.name} holds no {what} of this kind; check `format`")
    refuse_repeated(path, questions)
    return PublicSet(tuple(kept.values()), tuple(questions))


def yes_or_no(answer: str) -> str:
    """`yes` or `no` where an answer is nothing else, else ""."""
    plain = answer.strip().rstrip(".").lower()
    return {"true": "yes", "false": "no"}.get(plain, plain if plain in YES_NO else "")
