"""HotpotQA, 2WikiMultihopQA, MuSiQue and MultiHop-RAG: questions that need several documents."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

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
from domainlm.schema import FORM, Document, Question, Task

_NO_ANSWER = "insufficient information"


def wiki_hops(path: Path) -> PublicSet:
    """HotpotQA (Yang et al., 2018), 2WikiMultihopQA (Ho et al., 2020) and MuSiQue (Trivedi et al.,
    2022): the published file, whose records carry their paragraphs, or a folder with
    `questions.jsonl` and `corpus.jsonl`.
    """
    if path.is_dir():
        return _with_corpus(path)
    documents: dict[str, Document] = {}
    questions: list[Question] = []
    for where, row in records(path):
        paragraphs = list(_paragraphs(row, where))
        gold: list[str] = []
        evidence: list[str] = []
        for title, text, supports, quotes in paragraphs:
            made = _article(title, text, path.name)
            documents[made.id] = made
            if supports:
                gold.append(made.id)
                evidence += quotes
        questions.append(_question(row, where, gold, evidence))
    return gathered(path, documents.values(), questions)


def _article(title: str, text: str, source: str) -> Document:
    # One article gives several questions different paragraphs; its title alone is no id.
    key = hashlib.sha256(f"{title}\n{text}".encode("utf-8", "replace")).hexdigest()[:10]
    return document(f"{title[:80]}@{key}", title, text, source)


def _paragraphs(row: dict[str, Any], where: str) -> Iterable[tuple[str, str, bool, list[str]]]:
    """(title, text, whether it supports the answer, sentences that do) of a record."""
    if "paragraphs" in row:
        for p in list_of(row, where, "paragraphs"):
            if not isinstance(p, dict):
                raise DataError(f"{where}: {str(p)[:60]!r} is no paragraph; check `format`")
            text = text_of(p, where, "paragraph_text", "text")
            supports = bool(p.get("is_supporting"))
            yield text_of(p, where, "title"), text, supports, [text] if supports else []
        return
    context, facts = row.get("context"), row.get("supporting_facts", [])
    if isinstance(context, dict):
        context = list(zip(context.get("title", ()), context.get("sentences", ()), strict=False))
    if isinstance(facts, dict):
        facts = list(zip(facts.get("title", ()), facts.get("sent_id", ()), strict=False))
    if not isinstance(context, list) or not isinstance(facts, list):
        raise DataError(f"{where} has no `context` and `supporting_facts`; check `format`")
    pairs = {(str(f[0]), f[1]) for f in facts if isinstance(f, list | tuple) and len(f) == 2}
    titles = {title for title, _ in pairs}
    for item in context:
        if not isinstance(item, list | tuple) or len(item) != 2 or not texts_of(item[1]):
            raise DataError(f"{where}: a paragraph of `context` is no title and sentences")
        title, sentences = str(item[0]), texts_of(item[1])
        quotes = [s for n, s in enumerate(sentences) if (title, n) in pairs]
        yield title, " ".join(sentences), title in titles, quotes


def _question(
    row: dict[str, Any], where: str, gold: Iterable[str], evidence: Iterable[str]
) -> Question:
    answers = [*texts_of(row.get("answer")), *texts_of(row.get("answer_aliases"))]
    known = row.get("answerable", True) is not False
    said = yes_or_no(answers[0]) if answers else ""
    task: Task = "closed_form" if said else "multi_document"
    return Question(
        text_of(row, where, "id", "_id"),
        text_of(row, where, "question", "query"),
        () if not known else (said,) if said else tuple(dict.fromkeys(answers)),
        task if known else "unanswerable",
        tuple(dict.fromkeys(gold)) if known else (),
        tuple(dict.fromkeys(evidence)) if known else (),
        YES_NO if said and known else (),
        metadata={FORM: "multi_document"} if not known else {},
    )


def _with_corpus(folder: Path) -> PublicSet:
    corpus, asked = (_file(folder, stem) for stem in ("corpus", "questions"))
    documents, by_title = [], dict[str, str]()
    for where, row in records(corpus):
        title = str(row.get("title") or "")
        text = text_of(row, where, "text")
        made = document(text_of(row, where, "id", "_id"), title, text, corpus.name)
        documents.append(made)
        by_title.setdefault(title, made.id)
    known = {d.id for d in documents}
    questions: list[Question] = []
    for where, row in records(asked):
        gold = texts_of(row.get("supporting", []))
        titles = texts_of(row.get("supporting_titles", []))
        missing = [g for g in gold if g not in known] + [t for t in titles if t not in by_title]
        if missing:
            raise DataError(f"{where}: {missing[0][:80]!r} is not in {corpus.name}; add it")
        gold += [by_title[t] for t in titles]
        questions.append(_question(row, where, gold, ()))
    return gathered(folder, documents, questions)


def _file(folder: Path, *stems: str) -> Path:
    named = [folder / f"{s}.{e}" for s in stems for e in ("jsonl", "jsonl.gz", "json", "json.gz")]
    found = next((p for p in named if p.exists()), None)
    if found is None:
        raise DataError(f"{str(folder)!r} has no {named[0].name}; add it, or check `format`")
    return found


def multihop_rag(path: Path) -> PublicSet:
    """MultiHop-RAG (Tang & Yang, 2024): a folder with `MultiHopRAG.json` and `corpus.json`, or with
    `queries.jsonl` and `evidence_articles.jsonl`, whose articles are their quoted facts.

    Yes and no are closed form, "Insufficient information" unanswerable.
    """
    if not path.is_dir():
        raise DataError(f"{path.name} is a file; multihop_rag takes the folder of both its files")
    articles = _file(path, "corpus", "evidence_articles")
    asked = _file(path, "MultiHopRAG", "queries")
    documents: list[Document] = []
    facts: dict[str, tuple[str, str]] = {}
    for where, row in records(articles):
        url = text_of(row, where, "url")
        told = [f for f in row.get("facts") or () if isinstance(f, dict)]
        for fact in told:
            facts[text_of(fact, where, "id")] = (url, text_of(fact, where, "text"))
        body = "\n\n".join(f["text"] for f in told) or text_of(row, where, "body", "text")
        source, day = str(row.get("source", "")), str(row.get("published_at", ""))[:10]
        title = f"{text_of(row, where, 'title')} ({source}, {day})"
        documents.append(document(url, title, body, articles.name, {"date": day}))
    questions: list[Question] = []
    for where, row in records(asked):
        evidence: list[tuple[str, str]] = []
        for item in [*(row.get("evidence") or ()), *(row.get("evidence_list") or ())]:
            if isinstance(item, dict):
                evidence.append((text_of(item, where, "url"), text_of(item, where, "fact")))
            elif str(item) in facts:
                evidence.append(facts[str(item)])
            else:
                raise DataError(f"{where}: evidence {str(item)[:60]!r} is not in {articles.name}")
        answer = text_of(row, where, "answer")
        known = not answer.lower().startswith(_NO_ANSWER)
        marked = {**row, "id": row.get("id") or f"q{len(questions) + 1}", "answerable": known}
        gold = (url for url, _ in evidence)
        questions.append(_question(marked, where, gold, (fact for _, fact in evidence)))
    return gathered(path, documents, questions)
