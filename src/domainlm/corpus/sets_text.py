"""SQuAD, BEIR, PubMedQA, CLAP NQ and summaries: questions about running text."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from domainlm.corpus.questions import load_questions
from domainlm.corpus.sets_common import (
    PublicSet,
    document,
    gathered,
    list_of,
    records,
    text_of,
    texts_of,
)
from domainlm.errors import DataError
from domainlm.schema import FORM, Document, Question

_DECISIONS = ("yes", "no", "maybe")
_SOURCES = ("original_text", "document", "dialogue", "article", "text", "source", "body")
_SUMMARIES = ("reference_summary", "summary", "highlights", "abstract", "target")
_NAMES = ("title", "doc", "topic", "headline", "name")


def squad(path: Path) -> PublicSet:
    """SQuAD 1.1 and 2.0 (Rajpurkar et al., 2016, 2018) and files of that form: one document per
    article, its paragraphs in order.
    """
    documents: list[Document] = []
    for number, (where, article) in enumerate(records(path), 1):
        paragraphs = list_of(article, where, "paragraphs")
        if not all(isinstance(p, dict) for p in paragraphs):
            raise DataError(f"{where}: a paragraph is no object; check `format`")
        known = paragraphs[0].get("document_id") if paragraphs else None
        title = str(article.get("title") or known or number)
        text = "\n\n".join(text_of(p, where, "context") for p in paragraphs)
        documents.append(document(title, title.replace("_", " "), text, path.name))
    return gathered(path, documents, load_questions(path))


def beir(path: Path) -> PublicSet:
    """A folder in BEIR layout (Thakur et al., 2021): documents of `corpus.jsonl`. Its questions
    have no answers, so they measure retrieval alone.
    """
    corpus = sorted(path.glob("corpus.jsonl*")) if path.is_dir() else []
    if not corpus:
        raise DataError(f"{str(path)!r} has no corpus.jsonl; beir takes a folder in BEIR layout")
    documents = []
    for where, row in records(corpus[0]):
        id_ = text_of(row, where, "_id", "id")
        text = " ".join(texts_of(row.get("text", "")))
        documents.append(document(id_, str(row.get("title") or ""), text, corpus[0].name))
    return gathered(path, documents, load_questions(path))


def pubmedqa(path: Path) -> PublicSet:
    """PubMedQA (Jin et al., 2019), its labelled JSON: one document per abstract, its conclusion
    left out; closed form with yes, no and maybe.

    An abstract is titled by its number: its own title is the question. What its results section
    says is the evidence.
    """
    documents: list[Document] = []
    questions: list[Question] = []
    for where, raw in records(path):
        row = {str(k).lower(): v for k, v in raw.items()}
        pmid = text_of(row, where, "id", "pubid")
        context = row.get("context") if isinstance(row.get("context"), dict) else row
        parts = texts_of(context.get("contexts", []))  # type: ignore[union-attr]
        labels = texts_of(context.get("labels", []))  # type: ignore[union-attr]
        decision = text_of(row, where, "final_decision").lower()
        if decision not in _DECISIONS:
            raise DataError(f"{where}: final_decision {decision[:40]!r} is not yes, no or maybe")
        if not parts:
            raise DataError(f"{where} has no `CONTEXTS`; check `format`")
        labels = labels if len(labels) == len(parts) else [""] * len(parts)
        body = "\n\n".join(f"{a}: {t}" if a else t for a, t in zip(labels, parts, strict=True))
        results = [t for a, t in zip(labels, parts, strict=True) if "RESULT" in a.upper()]
        documents.append(document(pmid, f"PubMed {pmid}", body, path.name))
        questions.append(
            Question(
                pmid,
                text_of(row, where, "question"),
                (decision,),
                "closed_form",
                (pmid,),
                tuple(results or parts[-1:]),
                _DECISIONS,
            )
        )
    return gathered(path, documents, questions)


def clapnq(path: Path) -> PublicSet:
    """CLAP NQ (Rosenthal et al., 2024), its annotated JSONL: long answers about one passage each;
    a question without an answer is unanswerable, though asked like the others.
    """
    documents: dict[str, Document] = {}
    questions: list[Question] = []
    for where, row in records(path):
        id_ = text_of(row, where, "id")
        gold: list[str] = []
        for passage in list_of(row, where, "passages"):
            if not isinstance(passage, dict):
                raise DataError(f"{where}: {str(passage)[:60]!r} is no passage; check `format`")
            text, title = text_of(passage, where, "text"), str(passage.get("title") or "")
            key = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:10]
            made = document(f"{title[:80]}@{key}", title, text, path.name)
            documents[made.id] = made
            gold.append(made.id)
        outputs = [o for o in row.get("output") or () if isinstance(o, dict)]
        answers = [a for o in outputs for a in texts_of(o.get("answer"))]
        chosen = [s for o in outputs for s in texts_of(o.get("selected_sentences", []))]
        questions.append(
            Question(
                id_,
                text_of(row, where, "input", "question"),
                tuple(dict.fromkeys(answers)),
                "long_form" if answers else "unanswerable",
                tuple(dict.fromkeys(gold)) if answers else (),
                tuple(dict.fromkeys(chosen)) if answers else (),
                metadata={FORM: "long_form"},
            )
        )
    return gathered(path, documents.values(), questions)


def summaries(path: Path) -> PublicSet:
    """Records of a text and its summary (DialogSum, CNN/DailyMail, contracts in plain English …):
    one document and one question each, asked of that document.
    """
    documents: list[Document] = []
    questions: list[Question] = []
    for number, (where, row) in enumerate(records(path), 1):
        id_ = next((t for k in ("uid", "id", "_id", "fname") for t in texts_of(row.get(k))), "")
        id_ = id_ or str(number)
        text = text_of(row, where, *_SOURCES)
        reference = [*texts_of(row.get("summaries", []))]
        reference = reference or [text_of(row, where, *_SUMMARIES)]
        name = next((t for k in _NAMES for t in texts_of(row.get(k))), "")
        title = re.sub(r"\s+", " ", name)[:120] or id_
        documents.append(document(id_, title, text, path.name))
        questions.append(
            Question(
                id_,
                f"Summarise this text in plain words: {title}",
                tuple(reference),
                "summary",
                (id_,),
                scope=(id_,),
            )
        )
    return gathered(path, documents, questions)
