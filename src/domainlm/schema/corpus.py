"""What is read and searched: documents, chunks, passages; and the questions about them."""

from dataclasses import dataclass, field
from typing import Literal, get_args

Task = Literal[
    "extractive",
    "multi_document",
    "closed_form",
    "numeric",
    "summary",
    "long_form",
    "unanswerable",
]
TASKS: tuple[Task, ...] = get_args(Task)
Split = Literal["", "train", "dev", "test_known", "test_new"]

SetFormat = Literal[
    "auto",
    "squad",
    "beir",
    "pubmedqa",
    "tatqa",
    "financebench",
    "multihop_rag",
    "hotpotqa",
    "2wiki",
    "musique",
    "clapnq",
    "summaries",
]
"""How a question file is read: a plain one, or a public set that holds its documents too."""

ABSTENTION = "Not in the documents."
"""The one sentence that counts as a defined abstention, in prompts, training targets and scores."""


FORM = "form"
"""Metadata of a question: the task that it is asked as. An unanswerable one says so, lest its
prompt give it away."""


@dataclass(frozen=True, slots=True)
class Anchor:
    """A named place in a document: a page, a sheet, a slide or a section heading."""

    start: int
    end: int
    kind: Literal["page", "section", "sheet", "slide", "row"]
    label: str


@dataclass(frozen=True, slots=True)
class Document:
    """One readable file (or one record of a tabular or JSONL file) as plain text.

    `id` is the path relative to the documents folder with forward slashes (plus `#n` for records),
    `sha256` the digest of the text, `source` the same relative path without the record number.
    """

    id: str
    title: str
    source: str
    text: str
    media_type: str
    sha256: str
    anchors: tuple[Anchor, ...] = ()
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A file that could not become a document, and why; the run goes on without it."""

    source: str
    reason: Literal[
        "empty", "corrupt", "encrypted", "too_large", "mislabelled", "no_text", "unsupported"
    ]
    detail: str


@dataclass(frozen=True, slots=True)
class Chunk:
    """A retrievable span of one document.

    `text` is what is embedded and searched (after `header`), `window_start:window_end` the span
    that the reader is shown: the chunk itself, its sentence window, or its parent.
    """

    id: str
    doc_id: str
    text: str
    start: int
    end: int
    window_start: int
    window_end: int
    title: str = ""
    header: str = ""
    anchor: str = ""

    @property
    def indexed_text(self) -> str:
        """Header and text, as embedded and as full-text indexed."""
        return f"{self.header}\n{self.text}" if self.header else self.text


@dataclass(frozen=True, slots=True)
class Passage:
    """A ranked piece of evidence: the text shown to the model and where it stands verbatim."""

    chunk_id: str
    doc_id: str
    title: str
    text: str
    start: int
    end: int
    score: float
    anchor: str = ""


@dataclass(frozen=True, slots=True)
class Question:
    """One question with its references and gold documents.

    `references` are alternative right answers (empty for unanswerable ones), `doc_ids` the gold
    documents, `evidence` verbatim supporting passages, `choices` the allowed answers of a closed
    form, `scope` the documents a search must be confined to (empty: all of them).
    """

    id: str
    text: str
    references: tuple[str, ...] = ()
    task: Task = "extractive"
    doc_ids: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    scope: tuple[str, ...] = ()
    split: Split = ""
    origin: Literal["human", "synthetic"] = "human"
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class QuestionSet:
    """Questions split by document: no document feeds both training and `test_new`.

    `dropped` lists what a leakage check refused, as (question id, reason).
    """

    train: tuple[Question, ...]
    dev: tuple[Question, ...]
    test_known: tuple[Question, ...]
    test_new: tuple[Question, ...]
    train_doc_ids: tuple[str, ...]
    dropped: tuple[tuple[str, str], ...] = ()

    @property
    def test(self) -> tuple[Question, ...]:
        """Both test sets: known documents first, then new ones."""
        return self.test_known + self.test_new
