"""What every technique buys on two real sets each, against the plain pipeline; losses too.

    python benchmarks/techniques.py --data DIR --json OUT [--work DIR] [--only "hyde;mmr"]

Three kinds of techniques, one line each in the tables below: those that change the ranking (nDCG@10
of documents, MuSiQue and LiHua-World), those that change how documents are cut (share of gold among
the first 4,000 characters shown, LiHua-World and COVID-QA) and those that change only what the
model reads (token F1 of the embedded model's answers, MuSiQue and FairytaleQA). Paired differences
to the plain pipeline of the same kind, 95 % intervals by what questions are about. Every finished
measurement and every model answer is kept under `--work`: interrupted, the same command goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import sets
from cached_model import CachedModel
from domainlm import stats
from domainlm.corpus.chunking import chunk_document
from domainlm.errors import ModelError
from domainlm.evaluation.metrics import token_f1
from domainlm.fusion import DENSE_SHARE
from domainlm.models.base import Embedder, load_chat_model, load_embedder
from domainlm.rag.communities import by_community
from domainlm.rag.pipeline import Retrieval, with_retrieval
from domainlm.rag.reading import with_documents
from domainlm.rag.replug import with_ensemble
from domainlm.rag.stages import Resources
from domainlm.schema import Passage, Question, RagSpec, Sampling, StageSpec
from kept import kept
from retrieval import examples, ndcg

HYBRID = (StageSpec("hybrid"),)
SHOWN = 4_000
"""Characters that a reader would be shown, so that large chunks have no head start."""
ROUNDS = 4
"""How often a stage may ask the model again with what it was told."""


@dataclass(frozen=True)
class Technique:
    """A pipeline, or chunks for the plain one. `asks` marks those that ask the model."""

    spec: RagSpec
    chunking: dict[str, Any] = field(default_factory=dict)
    asks: bool = False


def retrieve(*stages: StageSpec, asks: bool = False) -> Technique:
    """Other retrievers."""
    return Technique(RagSpec(retrieve=stages, passages=20), asks=asks)


def before(use: str, **settings: Any) -> Technique:
    """A stage that writes queries before hybrid search."""
    return Technique(RagSpec((StageSpec(use, settings),), HYBRID, passages=20), asks=True)


def rerank(use: str, asks: bool = False, **settings: Any) -> Technique:
    """A stage that orders or drops what hybrid search found."""
    spec = RagSpec((), HYBRID, passages=20, rerank=(StageSpec(use, settings),), depth=20)
    return Technique(spec, asks=asks)


def read(*post: StageSpec, reader: str = "together") -> Technique:
    """Stages that change what the model reads, or how."""
    return Technique(RagSpec((), HYBRID, post, passages=4, reader=reader), asks=True)  # type: ignore[arg-type]


def cut(**chunking: Any) -> Technique:
    """Other chunks."""
    return Technique(RagSpec((), HYBRID, passages=20), chunking)


RANKING: dict[str, Technique] = {
    "plain": retrieve(*HYBRID),
    "BM25": retrieve(StageSpec("bm25")),
    "dense": retrieve(StageSpec("dense")),
    "RRF": retrieve(StageSpec("hybrid", {"method": "rrf"})),
    "graph": retrieve(StageSpec("graph")),
    "hybrid + graph": retrieve(*HYBRID, StageSpec("graph")),
    "hops": retrieve(StageSpec("hops")),
    "named": retrieve(StageSpec("named")),
    "rocchio": retrieve(StageSpec("rocchio")),
    "route": retrieve(StageSpec("route")),
    "corrective": retrieve(StageSpec("corrective")),
    "questions, sentences": retrieve(StageSpec("questions", {"writer": "sentences"})),
    "raptor, extract": retrieve(StageSpec("raptor", {"summary": "extract"})),
    "communities": retrieve(StageSpec("communities")),
    "mmr": rerank("mmr"),
    "distinct": rerank("distinct"),
    "cutoff": rerank("cutoff"),
    "late_interaction": rerank("late_interaction"),
    "rewrite": before("rewrite"),
    "step_back": before("step_back"),
    "multi_query": before("multi_query"),
    "decompose": before("decompose"),
    "hyde": before("hyde"),
    "query2doc": before("query2doc"),
    "iterate": retrieve(StageSpec("iterate"), asks=True),
    "model_rank": rerank("model_rank", asks=True),
    "likelihood": rerank("likelihood", asks=True),
    "questions": retrieve(StageSpec("questions", {"max_calls": 300, "max_tokens": 64})),
}
CUTTING: dict[str, Technique] = {
    "plain": cut(),
    "no header": cut(header=False),
    "100 tokens": cut(tokens=100),
    "overlap": cut(overlap=40),
    "sentence_window": cut(use="sentence_window", tokens=100),
    "parent_child": cut(use="parent_child", tokens=100, parent_tokens=400),
}
READING: dict[str, Technique] = {
    "plain": read(),
    "document_order": read(StageSpec("document_order")),
    "join_neighbours": read(StageSpec("join_neighbours")),
    "lead": read(StageSpec("lead")),
    "best_last": read(StageSpec("best_last")),
    "both_ends": read(StageSpec("both_ends")),
    "sentences": read(StageSpec("sentences")),
    "perplexity": read(StageSpec("perplexity")),
    "per_document": read(reader="per_document"),
    "replug": read(reader="replug"),
    "global": read(reader="global"),
}


@dataclass
class Place:
    """One set, ready to be asked."""

    name: str
    data: sets.Set
    embedder: Embedder
    model: CachedModel
    work: Path

    def questions(self, most: int) -> list[sets.Asked]:
        """At most `most`, drawn by their ids."""
        return sorted(self.data.asked, key=lambda a: hashlib.md5(a.id.encode()).digest())[:most]

    def resources(self, chunking: dict[str, Any]) -> Resources:
        """The index (of other chunks, if asked) and labelled questions, one's own left out."""
        data, name = self.data, self.name
        if chunking:
            tag = "-".join(f"{k}-{v}" for k, v in sorted(chunking.items()))
            changed = partial(chunk_document, **{"tokens": 200, **chunking})
            data, name = replace(data, cut=changed, settings=tag), f"{name}-{tag}"
        key = f"index {name}"
        if key not in _OPEN:
            by_id = {d.id: d for d in data.documents}
            _OPEN[key] = Resources(
                data.index(self.embedder, self.work / name),
                by_id,
                self.embedder,
                lambda: self.model,
                examples=tuple(examples(data.asked, by_id)),
                leave_one_out=True,
            )
        return _OPEN[key]


_OPEN: dict[str, Resources] = {}
Score = Callable[[Place, Technique, Sequence[sets.Asked]], list[float]]


def question(asked: sets.Asked) -> Question:
    """As pipelines take it."""
    return Question(asked.id, asked.text, asked.answers, scope=asked.scope)


def found(place: Place, technique: Technique, asked: Sequence[sets.Asked]) -> list[list[Passage]]:
    """Passages of every question; what stages ask the model is answered in batches."""
    retrieval = Retrieval(technique.spec, place.resources(technique.chunking))
    questions = [question(a) for a in asked]
    retrieval.prepare(questions)
    for _ in range(ROUNDS if technique.asks else 0):
        place.model.noting = True
        for q in questions:
            retrieval(q)
        if not place.model.flush():
            break
    return [retrieval(q) for q in questions]


def by_rank(place: Place, technique: Technique, asked: Sequence[sets.Asked]) -> list[float]:
    """NDCG@10 of documents in the order of their best passages."""
    return [
        ndcg(list(dict.fromkeys(p.doc_id for p in passages)), a.gold)
        for a, passages in zip(asked, found(place, technique, asked), strict=True)
    ]


def by_share(place: Place, technique: Technique, asked: Sequence[sets.Asked]) -> list[float]:
    """Share of gold documents, or of the gold span's characters, in what fits the prompt."""
    scores = []
    for a, passages in zip(asked, found(place, technique, asked), strict=True):
        shown, room = [], SHOWN
        for p in passages:
            if room > 0:
                shown.append(replace(p, end=min(p.end, p.start + room)))
            room -= len(p.text)
        if a.span is None:
            scores.append(len({p.doc_id for p in shown} & a.gold.keys()) / len(a.gold))
            continue
        start, end = a.span
        held = {
            c
            for p in shown
            if p.doc_id in a.gold
            for c in range(max(start, p.start), min(end, p.end))
        }
        scores.append(len(held) / (end - start))
    return scores


def by_answer(place: Place, technique: Technique, asked: Sequence[sets.Asked]) -> list[float]:
    """Token F1 of the embedded model's answers."""
    resources, spec = place.resources(technique.chunking), technique.spec
    setup = "rag", place.model, Sampling(max_tokens=32), Retrieval(spec, resources)
    if spec.reader == "replug":
        arm = with_ensemble(*setup)
    elif spec.reader == "together":
        arm = with_retrieval(*setup)
    else:
        group = by_community(resources) if spec.reader == "global" else None
        arm = with_documents(*setup, resources.documents, group)
    answers = arm.answer([question(a) for a in asked])
    return [token_f1(x.text, a.answers) for x, a in zip(answers, asked, strict=True)]


KINDS: dict[str, tuple[dict[str, Technique], tuple[str, str], Score, int]] = {
    "ranking": (RANKING, ("musique", "lihua_world"), by_rank, 200),
    "cutting": (CUTTING, ("lihua_world", "covidqa"), by_share, 200),
    "reading": (READING, ("musique", "fairytaleqa"), by_answer, 60),
}


def values_of(
    place: Place, technique: Technique, score: Score, most: int, asking: int, results: Path
) -> dict[str, float]:
    """Score by question; measured once."""
    asked = place.questions(min(most, asking) if technique.asks else most)
    ids = [a.id for a in asked]

    def make() -> dict[str, float]:
        return dict(zip(ids, score(place, technique, asked), strict=True))

    values: dict[str, float] = kept(
        results, make, place.name, score.__name__, technique, ids, DENSE_SHARE
    )
    return values


def compare(
    place: Place, ours: dict[str, float], plain: dict[str, float]
) -> dict[str, float | None]:
    """The paired difference on the questions that both have."""
    asked = [a for a in place.data.asked if a.id in ours and a.id in plain]
    gain = stats.paired_difference(
        [ours[a.id] for a in asked], [plain[a.id] for a in asked], [a.group for a in asked], 0.02
    ).difference
    return {
        "plain": round(float(np.mean([plain[a.id] for a in asked])), 4),
        "with": round(float(np.mean([ours[a.id] for a in asked])), 4),
        "difference": gain.value,
        "low": gain.low,
        "high": gain.high,
        "questions": len(asked),
    }


def cell(row: dict[str, Any]) -> str:
    """`+.012 [-.010, +.034]`, bold where the interval is clear of zero."""
    numbers = [f"{row[k]:+.3f}".replace("0.", ".") for k in ("difference", "low", "high")]
    text = f"{numbers[0]} [{numbers[1]}, {numbers[2]}]"
    return f"**{text}**" if row["low"] * row["high"] > 0 else text


def main() -> None:
    """Measure, print Markdown tables, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/techniques"))
    parser.add_argument("--only", default="", help="techniques or kinds, separated by ;")
    parser.add_argument("--asking", type=int, default=60, help="questions where a model is asked")
    args = parser.parse_args()
    only = set(filter(None, args.only.split(";")))
    embedder = load_embedder("embedded")
    model = CachedModel(lambda: load_chat_model("embedded"), args.work / "said.jsonl")
    places: dict[str, Place] = {}
    result: dict[str, Any] = {}
    for kind, (techniques, names, score, most) in KINDS.items():
        wanted = [t for t in techniques if not only or t in only or kind in only]
        if not wanted or wanted == ["plain"]:
            continue
        for name in names:
            data = places.get(name) or Place(
                name, sets.load(args.data / name), embedder, model, args.work
            )
            places[name] = data
            run = partial(
                values_of,
                data,
                score=score,
                most=most,
                asking=args.asking,
                results=args.work / "results",
            )
            plain = run(techniques["plain"])
            for technique in wanted:
                if technique == "plain":
                    continue
                started = time.perf_counter()
                try:
                    row = compare(data, run(techniques[technique]), plain)
                except ModelError as error:
                    print(f"{name:14}{technique:18}failed: {error}", flush=True)
                    continue
                result.setdefault(kind, {}).setdefault(technique, {})[name] = row
                print(
                    f"{name:14}{technique:18}{row['plain']:.3f} -> {row['with']:.3f}  {cell(row)}  "
                    f"{row['questions']} questions, {time.perf_counter() - started:.0f} s",
                    flush=True,
                )
    for kind, rows in result.items():
        names = KINDS[kind][1]
        print(f"\n| {kind} | {names[0]} | {names[1]} |\n|---|---|---|")
        for technique, row in rows.items():
            cells = [cell(row[n]) if n in row else "–" for n in names]
            print(f"| {technique} | {' | '.join(cells)} |")
    args.json.write_text(json.dumps(result, indent=2), "utf-8")


if __name__ == "__main__":
    main()
