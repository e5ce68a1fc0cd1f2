"""Public question-answering sets that carry their documents: `format` names how a file is read.

A reader is a function `path -> PublicSet` in the `READERS` table.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from domainlm.corpus.questions import load_questions
from domainlm.corpus.readers import load_documents
from domainlm.corpus.sets_common import PublicSet, Reader
from domainlm.corpus.sets_finance import financebench, tatqa
from domainlm.corpus.sets_hops import multihop_rag, wiki_hops
from domainlm.corpus.sets_text import beir, clapnq, pubmedqa, squad, summaries
from domainlm.errors import DataError
from domainlm.schema import Document, Quarantined, Question

AUTO = "auto"
READERS: dict[str, Reader] = {
    "squad": squad,
    "beir": beir,
    "pubmedqa": pubmedqa,
    "tatqa": tatqa,
    "financebench": financebench,
    "multihop_rag": multihop_rag,
    "hotpotqa": wiki_hops,
    "2wiki": wiki_hops,
    "musique": wiki_hops,
    "clapnq": clapnq,
    "summaries": summaries,
}


def load_set(path: Path, kind: str) -> PublicSet:
    """Documents and questions of a public set.

    Raises:
        DataError: the file is missing or is not of that kind; the message names record and field.
    """
    if not path.exists():
        raise DataError(f"question file {str(path)!r} does not exist; check `questions`")
    if path.is_dir() and kind not in ("beir", "multihop_rag", "hotpotqa", "2wiki", "musique"):
        raise DataError(f"{str(path)!r} is a folder; format {kind} takes its file")
    try:
        return READERS[kind](path)
    except (TypeError, AttributeError, KeyError, IndexError) as error:
        # Values of the wrong kind where a check did not look.
        raise DataError(
            f"{path.name} is not in the form of {kind} ({error}); check `format`"
        ) from error


def read_documents(
    documents: Path,
    questions: Path,
    kind: str = AUTO,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[Document], list[Quarantined]]:
    """The documents of a set where `documents` is its file, else those of the folder.

    Raises:
        DataError: nothing can be read.
    """
    if kind != AUTO and documents == questions:
        return list(load_set(questions, kind).documents), []
    return load_documents(documents, progress=progress)


def read_asked(questions: Path, kind: str = AUTO) -> list[Question]:
    """The questions of a set or of a plain question file.

    Raises:
        DataError: the file is missing, broken or empty.
    """
    return load_questions(questions) if kind == AUTO else list(load_set(questions, kind).questions)
