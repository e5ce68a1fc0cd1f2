"""Reads public retrieval sets: a folder with `corpus.jsonl` and `questions.jsonl`.

Passages are `{id, title, text}`; a question has `supporting` (passage ids) or `supporting_titles`.
Files beside them whose names contain `_extra` add passages to the corpus.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from domainlm.models.base import Embedder
from domainlm.retrieval import Index, build_index
from domainlm.schema import Chunk, Document


@dataclass(frozen=True)
class Asked:
    """A question and the passages that answer it, with a grade each."""

    id: str
    text: str
    gold: dict[str, float]


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """Records of a JSONL file, packed or not."""
    opened = gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open()
    with opened as lines:
        yield from (json.loads(line) for line in lines if line.strip())


def files(folder: Path, stem: str) -> list[Path]:
    """`stem.jsonl[.gz]` and every `*_extra*.jsonl[.gz]` beside it."""
    main = [p for p in (folder / f"{stem}.jsonl", folder / f"{stem}.jsonl.gz") if p.exists()]
    if not main:
        raise SystemExit(f"{folder} holds no {stem}.jsonl; give a folder with the same schema")
    return [*main, *sorted(p for p in folder.glob("*_extra*.jsonl*") if p not in main)]


def passages(folder: Path) -> list[Document]:
    """Every passage as a document of its own."""
    found: dict[str, Document] = {}
    for path in files(folder, "corpus"):
        for row in rows(path):
            doc_id = str(row.get("id", row.get("_id")))
            title, text = str(row.get("title", "")), str(row.get("text", ""))
            if not text.strip():
                continue
            sha = hashlib.sha256(text.encode()).hexdigest()
            found[doc_id] = Document(doc_id, title, doc_id, text, "text/plain", sha)
    return list(found.values())


def multi_hop(folder: Path, documents: list[Document]) -> list[Asked]:
    """Questions with their supporting passages; those without any in the corpus are left out."""
    by_title: dict[str, list[str]] = defaultdict(list)
    for document in documents:
        by_title[document.title].append(document.id)
    known = {d.id for d in documents}
    asked = []
    for row in rows(files(folder, "questions")[0]):
        gold = [i for i in row.get("supporting", ()) if i in known]
        gold += [by_title[t][0] for t in row.get("supporting_titles", ()) if t in by_title]
        if gold:
            asked.append(Asked(str(row["id"]), row["question"], dict.fromkeys(gold, 1.0)))
    return asked


def whole(document: Document) -> list[Chunk]:
    """One chunk per passage, its title before it."""
    key = hashlib.sha256(f"{document.title}\n{document.text}".encode()).hexdigest()[:8]
    end = len(document.text)
    return [
        Chunk(
            f"{document.id}@{key}",
            document.id,
            document.text,
            0,
            end,
            0,
            end,
            document.title,
            document.title,
        )
    ]


def index_of(documents: list[Document], embedder: Embedder, folder: Path) -> Index:
    """The index of whole passages in `folder`; an unchanged one costs nothing."""
    return build_index(folder, documents, whole, embedder, settings="whole passages")
