"""Retrieval quality by method on public sets, with paired differences to the simple hybrid.

    python benchmarks/retrieval.py --data DIR --json OUT [--work DIR] [--sets scifact,cranfield]
                                   [--head FOLDER]

DIR holds the folders of `SETS`; `sets.py` says which forms they have. Prints nDCG@10 and recall@5
of every method, its paired difference to the first one (the convex hybrid, nothing tuned) with a
95 % interval, and the method that is best on half of the questions against hybrid RRF on the other
half. `rocchio` learns from the first half. Last, against hybrid RRF on all questions of a set: the
convex hybrid with the dense share that is best on the mean of the other sets. FOLDER is what
`train_reranker.py` wrote; its own held-out pairs have chosen how much the reranker counts.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import sets
from domainlm import stats
from domainlm.artifacts import digest_file
from domainlm.models.base import Embedder, load_embedder
from domainlm.rag.pipeline import Retrieval
from domainlm.rag.stages import Resources
from domainlm.schema import Document, Question, RagSpec, StageSpec
from kept import kept

SETS = (
    "scifact",
    "cranfield",
    "musique",
    "2wikimultihopqa",
    "hotpotqa",
    "multihop_rag",
    "lihua_world",
    "medquad",
)
MOST = 800
"""Questions of one set, drawn by their ids."""
RRF = "hybrid, RRF"
SHARES = ("hybrid .3", "hybrid, convex", "hybrid .7")
"""Convex hybrids that differ in their dense share alone."""
EQUAL = StageSpec("hybrid", {"weight": 0.5})
"""What the others are compared with; the share that is the default was chosen by these figures."""
DEEP = 30
LABELLED = 600
"""Characters of a labelled document that count as evidence."""


def pipeline(*retrieve: StageSpec, rerank: tuple[StageSpec, ...] = ()) -> RagSpec:
    """Ten passages of these retrievers, reranked if asked."""
    return RagSpec(retrieve=retrieve, rerank=rerank, passages=10, depth=DEEP)


METHODS: dict[str, RagSpec] = {
    "hybrid, convex": pipeline(EQUAL),
    "full text": pipeline(StageSpec("bm25")),
    "dense": pipeline(StageSpec("dense")),
    RRF: pipeline(StageSpec("hybrid", {"method": "rrf"})),
    "hybrid .3": pipeline(StageSpec("hybrid", {"weight": 0.3})),
    "hybrid .7": pipeline(StageSpec("hybrid", {"weight": 0.7})),
    "graph": pipeline(StageSpec("graph")),
    "hops": pipeline(StageSpec("hops", {"weight": 0.5})),
    "hybrid + graph": pipeline(EQUAL, StageSpec("graph")),
    "named": pipeline(StageSpec("named", {"settings": {"weight": 0.5}})),
    "rocchio": pipeline(StageSpec("rocchio")),
    "questions, sentences": pipeline(StageSpec("questions", {"writer": "sentences"})),
    "raptor, extract": pipeline(StageSpec("raptor", {"summary": "extract"})),
    "hybrid, late interaction": pipeline(EQUAL, rerank=(StageSpec("late_interaction"),)),
    "hybrid, MMR": pipeline(EQUAL, rerank=(StageSpec("mmr"),)),
}
SLOW = ("hops", "hybrid, late interaction", "hybrid, MMR")
"""Measured on request: they lose on every set tried, or take half a second a question."""


def reranked(head: Path) -> dict[str, RagSpec]:
    """Hybrids whose candidates the trained head reorders; a head trained anew is a new method."""
    chosen = json.loads((head / "training.json").read_text("utf-8"))["reciprocal_rank"]
    weight = max(chosen, key=lambda w: chosen[w])
    late = StageSpec("late_interaction", {"weight": float(weight), "head": str(head)})
    name = f"trained late interaction {digest_file(head / 'head.safetensors')[:6]}"
    return {
        f"{name}, hybrid {share}": pipeline(StageSpec("hybrid", {"weight": share}), rerank=(late,))
        for share in (0.5, 0.7)
    }


def ndcg(ranked: Sequence[str], gold: dict[str, float], k: int = 10) -> float:
    """Normalised discounted cumulative gain with linear gains, as trec_eval computes it."""
    gain = sum(gold.get(d, 0.0) / math.log2(n + 2) for n, d in enumerate(ranked[:k]))
    ideal = sum(g / math.log2(n + 2) for n, g in enumerate(sorted(gold.values())[::-1][:k]))
    return gain / ideal


def ranking(retrieve: Retrieval, asked: sets.Asked) -> list[str]:
    """Documents in the order of their best passages."""
    return list(dict.fromkeys(p.doc_id for p in retrieve(Question(asked.id, asked.text))))


def examples(asked: Sequence[sets.Asked], documents: Mapping[str, Document]) -> list[Question]:
    """Labelled questions in the form that learning stages take."""
    return [
        Question(
            a.id,
            a.text,
            doc_ids=tuple(a.gold),
            evidence=tuple(documents[d].text[:LABELLED] for d in a.gold),
        )
        for a in asked
    ]


@dataclass(frozen=True)
class Measured:
    """nDCG@10 by method and question, and what each question is about, in the same order."""

    values: dict[str, dict[str, float]]
    groups: list[str]

    def mean(self, method: str) -> float:
        """Over all questions."""
        return float(np.mean(list(self.values[method].values())))


def measure(
    name: str, folder: Path, work: Path, embedder: Embedder, methods: Sequence[str]
) -> tuple[dict[str, Any], Measured]:
    """Every method on one set, and the best of the dev half against RRF on the other half."""
    data = sets.load(folder)
    by_id = {d.id: d for d in data.documents}
    index = data.index(embedder, work / name)
    drawn = sorted(data.asked, key=lambda a: hashlib.md5(a.id.encode()).digest())[:MOST]
    parts = {p: [a for a in drawn if sets.half(a) == p] for p in ("dev", "test")}
    labelled = tuple(examples(parts["dev"], by_id))
    # Dev questions learn from each other, test questions from dev ones.
    resources = {
        "dev": Resources(index, by_id, embedder, examples=labelled, leave_one_out=True),
        "test": Resources(index, by_id, embedder, examples=labelled),
    }
    passages = DEEP if data.cut is not sets.whole else 10
    values: dict[str, dict[str, float]] = {}
    found: dict[str, Any] = {
        "documents": len(by_id),
        "chunks": len(index),
        "questions": len(drawn),
        "methods": {},
    }
    groups = [a.group for part in parts.values() for a in part]
    for method in methods:
        spec = replace(METHODS[method], passages=passages)
        per_question = kept(
            work / "results",
            partial(measured, spec, parts, resources),
            name,
            spec,
            [a.id for a in drawn],
            # What a learning method finds depends on the questions that it learns from.
            *([[a.id for a in parts["dev"]]] if method == "rocchio" else []),
            *([method] if "trained" in method else []),
        )
        scores = {i: row[0] for i, row in per_question.items()}
        recalls = [row[1] for row in per_question.values()]
        seconds = sum(row[2] for row in per_question.values())
        values[method] = scores
        gain = difference(scores, values[methods[0]], groups)
        row = found["methods"][method] = {
            "ndcg@10": round(float(np.mean(list(scores.values()))), 4),
            "recall@5": round(float(np.mean(recalls)), 4),
            "gain": gain,
            "mean_ms": round(1000 * seconds / len(drawn), 2),
        }
        print(
            f"{name:16}{method:26}{row['ndcg@10']:8.3f}{row['recall@5']:8.3f}   "
            f"{gain[0]:+.3f} [{gain[1]:+.3f}, {gain[2]:+.3f}]  {row['mean_ms']:7.1f} ms",
            flush=True,
        )
    if RRF in values:
        found["held out"] = held_out(values, parts)
        print(f"{name:16}{found['held out']['text']}", flush=True)
    return found, Measured(values, groups)


def measured(
    spec: RagSpec, parts: Mapping[str, Sequence[sets.Asked]], resources: Mapping[str, Resources]
) -> dict[str, tuple[float, float, float]]:
    """Per question: nDCG@10, recall@5 and seconds."""
    found = {}
    for part, asked in parts.items():
        retrieve = Retrieval(spec, resources[part])
        retrieve.prepare([Question(a.id, a.text) for a in asked])
        for a in asked:
            started = time.perf_counter()
            ranked = ranking(retrieve, a)
            took = time.perf_counter() - started
            recall = len(set(ranked[:5]) & a.gold.keys()) / len(a.gold)
            found[a.id] = (ndcg(ranked, a.gold), recall, took)
    return found


def difference(
    ours: Mapping[str, float], theirs: Mapping[str, float], groups: Sequence[str]
) -> list[float | None]:
    """Paired difference of two methods with its interval."""
    ids = list(ours)
    gain = stats.paired_difference(
        [ours[i] for i in ids], [theirs[i] for i in ids], groups, margin=0.02
    ).difference
    return [gain.value, gain.low, gain.high]


def held_out(
    values: Mapping[str, Mapping[str, float]], parts: Mapping[str, Sequence[sets.Asked]]
) -> dict[str, Any]:
    """The method that is best on the dev half against RRF on the other one."""
    dev = {m: float(np.mean([v[a.id] for a in parts["dev"]])) for m, v in values.items()}
    best = max(dev, key=lambda m: dev[m])
    test = {m: {a.id: values[m][a.id] for a in parts["test"]} for m in (best, RRF)}
    gain = difference(test[best], test[RRF], [a.group for a in parts["test"]])
    means = {m: round(float(np.mean(list(v.values()))), 4) for m, v in test.items()}
    text = (
        f"chosen on {len(parts['dev'])}: {best}; on the other {len(parts['test'])} "
        f"{means[best]:.3f} against RRF's {means[RRF]:.3f}: "
        f"{gain[0]:+.3f} [{gain[1]:+.3f}, {gain[2]:+.3f}]"
    )
    return {
        "best": best,
        "ndcg@10": means,
        "gain": gain,
        "questions": len(test[best]),
        "text": text,
    }


def chosen_elsewhere(measured: Mapping[str, Measured]) -> dict[str, Any]:
    """For each set, the share that is best on the mean of the others, against RRF."""
    found = {}
    for name, own in measured.items():
        others = [m for other, m in measured.items() if other != name]
        best = max(SHARES, key=lambda s: sum(m.mean(s) for m in others))
        gain = difference(own.values[best], own.values[RRF], own.groups)
        found[name] = {"best": best, "ndcg@10": round(own.mean(best), 4), "gain": gain}
        print(
            f"{name:16}chosen on the other sets: {best}, {own.mean(best):.3f} against RRF's "
            f"{own.mean(RRF):.3f}: {gain[0]:+.3f} [{gain[1]:+.3f}, {gain[2]:+.3f}]"
        )
    return found


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/retrieval"))
    parser.add_argument("--sets", default=",".join(SETS))
    quick = [m for m in METHODS if m not in SLOW]
    parser.add_argument("--methods", default=";".join(quick), help="separated by ;")
    parser.add_argument("--head", type=Path, help="a trained late-interaction head to measure")
    args = parser.parse_args()
    embedder = load_embedder("embedded")
    own = reranked(args.head) if args.head else {}
    METHODS.update(own)
    print(f"{'set':16}{'method':26}{'nDCG@10':>8}{'rec@5':>8}   gain over the first")
    methods = [*args.methods.split(";"), *own]
    result, by_set = dict[str, Any](), dict[str, Measured]()
    for name in args.sets.split(","):
        if (args.data / name).is_dir():
            folder = args.data / name
            result[name], by_set[name] = measure(name, folder, args.work, embedder, methods)
    if len(by_set) > 1 and {RRF, *SHARES} <= set(methods):
        result["chosen elsewhere"] = chosen_elsewhere(by_set)
    args.json.write_text(json.dumps(result, indent=2), "utf-8")


if __name__ == "__main__":
    main()
