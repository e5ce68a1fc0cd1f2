"""Questions about passages: the embedded model as it is, against a tuned question writer.

    python benchmarks/question_writing.py --data DIR --json OUT --writer FOLDER [--work DIR]

Passages come from the shipped example and from sets that the writer never saw: PolicyQA (privacy
policies), CUAD (contracts) and MedQuAD (health pages) under DIR. Each writer is asked for the same
number of pairs about the same passages, and what it owes counts as a failure. The plain model is
shown three people's questions (PolicyQA's own, else the example's), or none, or is asked as the
tuned writer is: for the question that words of a sentence answer. Measured without the
writer: whether a pair passes the filters of a run; whether its answer stands in the passage word
for word; and whether the question, searched by hybrid retrieval among all chunks of its set, finds
the passage it was written about. Whether the answer is right is for people to read: `kept_pairs` in
the JSON lists what was kept. Seconds are those of the processor. Interrupted, the same command goes
on.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import sets
from clauses import LAB, documents_of
from domainlm import stats
from domainlm.artifacts import digest, write_atomic
from domainlm.corpus.chunking import chunk_document, sentence_spans
from domainlm.corpus.quotes import find_quote
from domainlm.corpus.readers import load_documents
from domainlm.models.base import ChatModel, Embedder, load_chat_model, load_embedder
from domainlm.retrieval import build_index
from domainlm.schema import Chunk, Document, Question, Sampling
from domainlm.training.data import refusal
from domainlm.training.question_writer import (
    FEW_SHOT,
    TUNED,
    Form,
    Shot,
    digest_of,
    few_shot,
)
from kept import kept

EXAMPLE = Path(__file__).parents[1] / "examples" / "aldervale"
PASSAGES, PAIRS, TOKENS, LEAST_WORDS = 12, 2, 160, 25
FLOOR = 0.8
ALIKE = 0.9
"""Cosine from which two questions ask the same."""
MARGIN = 0.05
MEASURES = ("formed", "kept", "verbatim", "found_1", "found_5", "answerable")


@dataclass(frozen=True)
class Ground:
    """Documents of a set, how each is cut, and people's questions with their evidence."""

    documents: list[Document]
    shots: list[Shot]
    cut: Callable[[Document], list[Chunk]]


def example(data: Path) -> Ground:
    """The shipped example with its extractive questions."""
    documents, _ = load_documents(EXAMPLE / "documents")
    shots = [
        (Question(row["id"], row["text"], tuple(row["references"])), row["evidence"][0])
        for row in sets.rows(EXAMPLE / "questions.jsonl")
        if row["task"] == "extractive" and row["evidence"]
    ]
    return Ground(documents, shots, _chunks)


def policies(data: Path) -> Ground:
    """PolicyQA: passages of privacy policies; a shot shows the sentence of its answer."""
    documents, shots = [], []
    rows = json.loads((data / "policyqa" / "policyqa_dev.json").read_text("utf-8"))["data"]
    for site in rows:
        for n, paragraph in enumerate(site["paragraphs"]):
            text = paragraph["context"]
            documents.append(sets.document(f"{site['title']}-{n}", site["title"], text))
            for qa in paragraph["qas"]:
                answer, start = qa["answers"][0]["text"], qa["answers"][0]["answer_start"]
                held = [text[a:b] for a, b in sentence_spans(text) if a <= start < b]
                if held and answer in held[0]:
                    shots.append((Question(qa["id"], qa["question"], (answer,)), held[0]))
    return Ground(documents, shots, _chunks)


def contracts(data: Path) -> Ground:
    """CUAD: contracts of up to 30,000 characters."""
    read = [c for c in LAB["read_contracts"](data / "cuad") if c["paragraphs"]]
    short = [c for c in read if len(c["paragraphs"][0]["context"]) <= 30_000]
    drawn = sorted(short, key=lambda c: digest(c["title"]))[:PASSAGES]
    return Ground(documents_of(drawn), example(data).shots, _chunks)


def medicine(data: Path) -> Ground:
    """MedQuAD: pages about a disease, each section a document."""
    documents = sets.medical(data / "medquad").documents
    pages = sorted({_page(d) for d in documents}, key=digest)[:PASSAGES]
    own = [d for d in documents if _page(d) in set(pages)]
    return Ground(own, example(data).shots, _chunks)


SETS = {"aldervale": example, "policyqa": policies, "cuad": contracts, "medquad": medicine}


def _chunks(document: Document) -> list[Chunk]:
    return chunk_document(document, tokens=TOKENS)


def _page(document: Document) -> str:
    """What passages hang together by: a page, a site, else the document."""
    return re.split(r"#|-\d+$", document.id)[0]


@dataclass(frozen=True)
class Writer:
    """A model and how it is asked."""

    name: str
    form: Form
    adapter: Path | None = None


def measure(
    ground: Ground, writers: Sequence[Writer], plain: ChatModel, embedder: Embedder, work: Path
) -> dict[str, Any]:
    """What each writer wrote about the same passages, and how good it is."""
    index = build_index(
        work / "index",
        ground.documents,
        ground.cut,
        embedder,
        settings=(TOKENS, [d.id for d in ground.documents]),
    )
    drawn = draw(index.chunks())
    by_id = {d.id: d for d in ground.documents}
    groups = {d.id: _page(d) for d in ground.documents}
    found: dict[str, Any] = {}
    for writer in writers:
        made = kept(
            work,
            lambda w=writer: write(w, drawn, by_id, ground.shots, plain),
            writer.name,
            digest_of(writer.adapter),
            [c.id for c in drawn],
            PAIRS,
        )
        slots = [
            judge(chunk, pair, index.hybrid)
            for chunk, pairs in zip(drawn, made["pairs"], strict=True)
            for pair in pairs
        ]
        asked = [p[0] for p, s in zip(flat(made["pairs"]), slots, strict=True) if p and s["kept"]]
        found[writer.name] = {
            "pairs": made["pairs"],
            "slots": slots,
            "clusters": [groups[c.doc_id] for c in drawn for _ in range(PAIRS)],
            "seconds": made["seconds"],
            "asked": asked,
            "repeated": repeated(asked, embedder),
        }
    return found


def draw(chunks: Sequence[Chunk]) -> list[Chunk]:
    """`PASSAGES` chunks that are no mere headings, spread over documents."""
    rng = random.Random(0)
    by_document: dict[str, list[Chunk]] = {}
    for chunk in sorted(chunks, key=lambda c: c.id):
        if len(chunk.text.split()) >= LEAST_WORDS:
            by_document.setdefault(re.split(r"#|-\d+$", chunk.doc_id)[0], []).append(chunk)
    for own in by_document.values():
        rng.shuffle(own)
    groups = rng.sample(list(by_document.values()), len(by_document))
    drawn: list[Chunk] = []
    while len(drawn) < PASSAGES and any(groups):
        drawn += [own.pop() for own in groups if own]
    return drawn[:PASSAGES]


def write(
    writer: Writer,
    chunks: Sequence[Chunk],
    documents: Mapping[str, Document],
    shots: Sequence[Shot],
    plain: ChatModel,
) -> dict[str, Any]:
    """For each passage `PAIRS` pairs, None for one that is owed; and the processor's seconds."""
    rng = random.Random(1)
    form = writer.form
    model = load_chat_model("embedded", adapter=writer.adapter) if writer.adapter else plain
    started = time.process_time()
    drafts = [
        (n, draft)
        for n, chunk in enumerate(chunks)
        for draft in form.ask(chunk, documents[chunk.doc_id], shots, PAIRS, rng)
    ]
    params = Sampling(form.max_tokens, form.temperature, 0)
    texts = [g.text for g in model.generate([draft.chat for _, draft in drafts], params)]
    seconds = time.process_time() - started
    pairs: list[list[Any]] = [[] for _ in chunks]
    for (n, draft), text in zip(drafts, texts, strict=True):
        pairs[n].append(form.read(draft, text))
    owed = [[*own, *[None] * (PAIRS - len(own))] for own in pairs]
    return {"pairs": owed, "seconds": seconds, "texts": texts}


def judge(chunk: Chunk, pair: Any, search: Callable[..., Any]) -> dict[str, float]:
    """Each of `MEASURES` for one pair that was asked for, 0 or 1."""
    good = dict.fromkeys(MEASURES, 0.0)
    if not pair:
        return good
    good["formed"] = 1.0
    if refusal(pair, chunk.text, FLOOR):
        return good
    question, answer = pair
    ranked = [hit[0] for hit in search(question, 5)]
    verbatim = find_quote(answer, chunk.text, whole_words=True) is not None
    good |= {
        "kept": 1.0,
        "verbatim": float(verbatim),
        "found_1": float(ranked[:1] == [chunk.id]),
        "found_5": float(chunk.id in ranked),
    }
    good["answerable"] = good["verbatim"] * good["found_5"]
    return good


def repeated(asked: Sequence[str], embedder: Embedder) -> float:
    """Share of questions that an earlier one asks already."""
    if len(asked) < 2:
        return 0.0
    vectors = embedder.embed(list(asked), "query")
    alike = np.tril(vectors @ vectors.T, -1).max(axis=1)
    return float((alike >= ALIKE).mean())


def distinct_2(asked: Sequence[str]) -> float:
    """Different pairs of neighbouring words among all; more questions repeat more of them."""
    pairs = [p for q in asked for p in _neighbours(q)]
    return len(set(pairs)) / max(1, len(pairs))


def _neighbours(question: str) -> Iterator[tuple[str, str]]:
    words = re.findall(r"\w+", question.lower())
    return zip(words, words[1:], strict=False)


def flat(pairs: Sequence[Sequence[Any]]) -> list[Any]:
    """All pairs in order."""
    return [pair for own in pairs for pair in own]


def summary(found: dict[str, dict[str, Any]], tuned: str) -> dict[str, Any]:
    """Shares by writer over what was asked for, and the tuned writer's gain over each other one,
    paired by passage and place, with intervals by document.
    """
    made: dict[str, Any] = {}
    for name, own in found.items():
        row: dict[str, Any] = {"pairs": len(own["slots"]), "passages": len(own["pairs"])}
        for measure_ in MEASURES:
            values = [s[measure_] for s in own["slots"]]
            row[measure_] = round(float(np.mean(values)), 4)
            if name != tuned:
                mine = [s[measure_] for s in found[tuned]["slots"]]
                gain = stats.paired_difference(mine, values, own["clusters"], margin=MARGIN)
                row[f"gain_{measure_}"] = [
                    round(v, 4) if v is not None else None
                    for v in (gain.difference.value, gain.difference.low, gain.difference.high)
                ]
                row["documents"] = gain.n_documents
        row["distinct_2"] = round(distinct_2(own["asked"]), 4)
        row["repeated"] = round(own["repeated"], 4)
        row["kept_pairs"] = [
            p for p, s in zip(flat(own["pairs"]), own["slots"], strict=True) if s["kept"]
        ]
        row["kept_per_s"] = round(len(own["asked"]) / own["seconds"], 3)
        made[name] = row
    return made


def together(all_: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The sets as one; a document's name is its set's and its own."""
    names = next(iter(all_.values()))
    return {
        w: {
            "pairs": [p for found in all_.values() for p in found[w]["pairs"]],
            "slots": [s for found in all_.values() for s in found[w]["slots"]],
            "clusters": [f"{n}/{c}" for n, found in all_.items() for c in found[w]["clusters"]],
            "seconds": sum(found[w]["seconds"] for found in all_.values()),
            "asked": [q for found in all_.values() for q in found[w]["asked"]],
            "repeated": float(
                np.average(
                    [found[w]["repeated"] for found in all_.values()],
                    weights=[max(1, len(found[w]["asked"])) for found in all_.values()],
                )
            ),
        }
        for w in names
    }


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/question_writing"))
    parser.add_argument("--writer", type=Path, required=True)
    args = parser.parse_args()
    writers = [
        Writer("few-shot", FEW_SHOT),
        Writer("zero-shot", few_shot(0)),
        Writer("plain, asked as the tuned one", TUNED),
        Writer("tuned", TUNED, args.writer),
    ]
    plain, embedder = load_chat_model("embedded"), load_embedder("embedded")
    found = {
        name: measure(read(args.data), writers, plain, embedder, args.work / name)
        for name, read in SETS.items()
    }
    result: dict[str, Any] = {"writer": digest_of(args.writer)}
    for name, own in {**found, "all": together(found)}.items():
        result[name] = summary(own, "tuned")
        for writer, row in result[name].items():
            shares = ", ".join(f"{m} {row[m]:.2f}" for m in MEASURES)
            print(
                f"{name:10} {writer:12.12} {row['pairs']:4} pairs: {shares}, distinct-2 "
                f"{row['distinct_2']:.2f}, repeated {row['repeated']:.2f}, "
                f"{row['kept_per_s']:.2f} kept a second"
            )
    write_atomic(args.json, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
