"""Questions with a passage that answers each, from public sets that no retrieval figure is about.

Besides labelled questions: conclusions of abstracts without them, and inverse cloze tasks (Lee et
al., 1906.00300), a sentence of a passage for the rest of it. SciFact, Cranfield, MuSiQue,
MultiHop-RAG, LiHua-World, MedQuAD and CUAD are not read.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import sets
from domainlm.corpus.chunking import chunk_document
from domainlm.schema import Document

ARTICLES, STORIES, SENTENCES = 45, 120, 250
"""Of COVID-QA (the shortest), FairytaleQA and QAMR, so that indexing takes minutes."""
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[\"“(A-Z0-9])")


@dataclass(frozen=True)
class Pair:
    """A question, what is found for it (`positive`, title first), and documents that are right."""

    question: str
    positive: str
    right: frozenset[str]

    @property
    def held_out(self) -> bool:
        """One in twelve chooses the weight of the reranker."""
        return hashlib.md5(self.question.encode()).digest()[0] < 21


@dataclass(frozen=True)
class Source:
    """Passages as documents, and pairs that search them."""

    name: str
    documents: list[Document]
    pairs: list[Pair]


def sources(data: Path, rng: random.Random) -> Iterator[Source]:
    """Every set under `data` that trains; `rng` draws."""
    for make in (pubmed, covid, fairytales, wikipedia, roles):
        yield make(data, rng)
    for name in ("hotpotqa", "2wikimultihopqa"):
        yield hops(data / name, rng)


def shown(document: Document) -> str:
    """A passage as rerankers read it."""
    return f"{document.title}\n{document.text}" if document.title else document.text


def pair(question: str, document: Document, right: Iterable[str] = ()) -> Pair:
    """A question and the document that answers it."""
    return Pair(question, shown(document), frozenset((document.id, *right)))


def cloze(documents: Sequence[Document], most: int, rng: random.Random) -> list[Pair]:
    """One sentence each of at most `most` passages; one in ten stays in its passage."""
    made: list[Pair] = []
    for document in rng.sample(list(documents), len(documents)):
        sentences = [s for s in _SENTENCE.split(document.text) if len(s) > 40]
        if len(sentences) < 4:
            continue
        sentence = rng.choice(sentences)
        kept = rng.random() < 0.1
        rest = document.text if kept else " ".join(s for s in sentences if s != sentence)
        made.append(pair(sentence, replace(document, text=rest)))
        if len(made) == most:
            break
    return made


def pubmed(data: Path, rng: random.Random) -> Source:
    """Questions for abstracts without title or conclusion; sentences of conclusions for both."""
    documents, pairs = [], []
    rows = json.loads((data / "pubmedqa" / "ori_pqal_public.json").read_text("utf-8"))
    for key, row in rows.items():
        body = " ".join(row["CONTEXTS"])
        document = sets.document(key, row["QUESTION"], body)
        documents.append(document)
        pairs.append(pair(row["QUESTION"], replace(document, title="")))
        said = [s for s in _SENTENCE.split(row["LONG_ANSWER"]) if len(s) > 40]
        bare = rng.random() < 0.5
        pairs += [
            pair(s, replace(document, title="" if bare else document.title)) for s in said[:2]
        ]
    return Source("pubmedqa", documents, pairs)


def covid(data: Path, rng: random.Random) -> Source:
    """COVID-QA: experts' questions for the chunk that holds the answer, and clozes."""
    rows = json.loads(gzip.decompress((data / "covidqa" / "covidqa.json.gz").read_bytes()))["data"]
    rows.sort(key=lambda row: len(row["paragraphs"][0]["context"]))
    documents, pairs = [], []
    for row in rows[:ARTICLES]:
        paragraph = row["paragraphs"][0]
        text = paragraph["context"]
        whole = sets.document(str(paragraph["document_id"]), text.split("\n")[0][:150], text)
        chunks = chunk_document(whole, tokens=200)
        own = [sets.document(c.id, whole.title, c.text) for c in chunks]
        documents += own
        for qa in paragraph["qas"]:
            start = qa["answers"][0]["answer_start"]
            held = [d for d, c in zip(own, chunks, strict=True) if c.start <= start < c.end]
            pairs += [pair(qa["question"], held[0], (d.id for d in held))] if held else []
    return Source("covidqa", documents, pairs + cloze(documents, 500, rng))


def fairytales(data: Path, rng: random.Random) -> Source:
    """FairytaleQA: five explicit questions of a story, each about one section."""
    sections = list(sets.rows(data / "fairytaleqa" / "sections.jsonl.gz"))
    stories = set(rng.sample(sorted({row["story"] for row in sections}), STORIES))
    documents = {}
    for row in sections:
        if row["story"] in stories:
            key = f"{row['story']}-{row['section']}"
            documents[key] = sets.document(key, row["story"].replace("-", " "), row["text"])
    by_story: dict[str, list[Pair]] = defaultdict(list)
    for row in sets.rows(data / "fairytaleqa" / "questions.jsonl"):
        key = f"{row['story']}-{row['sections'][0]}"
        if len(row["sections"]) == 1 and row["explicit"] == "explicit" and key in documents:
            by_story[row["story"]].append(pair(row["question"], documents[key]))
    pairs = [p for own in by_story.values() for p in rng.sample(own, min(5, len(own)))]
    return Source("fairytaleqa", list(documents.values()), pairs)


def wikipedia(data: Path, rng: random.Random) -> Source:
    """CLAP NQ: searched questions for the passage that answers them."""
    documents, pairs = [], []
    for row in sets.rows(data / "clapnq" / "clapnq_dev.jsonl"):
        passage = row["passages"][0]
        document = sets.document(row["id"], passage["title"], passage["text"])
        documents.append(document)
        if row["output"][0]["answer"]:
            pairs.append(pair(row["input"], document))
    return Source("clapnq", documents, pairs)


def hops(folder: Path, rng: random.Random) -> Source:
    """A multi-hop set: each supporting passage of a question, and clozes."""
    data = sets.load(folder)
    by_id = {d.id: d for d in data.documents}
    pairs = [pair(a.text, by_id[i], a.gold) for a in data.asked for i in a.gold]
    return Source(folder.name, data.documents, pairs + cloze(data.documents, 350, rng))


def roles(data: Path, rng: random.Random) -> Source:
    """QAMR: a question about each sentence."""
    documents, pairs = [], []
    for row in list(sets.rows(data / "qamr" / "qamr.jsonl.gz"))[:SENTENCES]:
        document = sets.document(str(row["id"]), "", row["sentence"])
        documents.append(document)
        pairs.append(pair(rng.choice(row["qas"])["question"], document))
    return Source("qamr", documents, pairs)
