"""What contrastive tuning of the embedder gains on questions that it has not seen.

    python benchmarks/retriever_tuning.py --data DIR --json OUT [--work DIR] [--set scifact]

DIR holds folders as `sets.py` reads them. Of the half of the questions that may be learned from,
four fifths teach and one fifth decides whether the tuned embedder is kept; the other half is
reported: nDCG@10 of dense and hybrid search with either embedder, paired, resampled by what the
questions are about.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import sets
from domainlm.artifacts import write_atomic
from domainlm.config import make_config
from domainlm.models.base import load_embedder
from domainlm.models.embedded import minilm_folder
from domainlm.retrieval import Index
from domainlm.training.pairs import retriever_pairs
from domainlm.training.retriever import train_embedder
from retrieval import difference, examples, ndcg

WEIGHT = 0.5
"""Dense share of the hybrid: nothing is tuned but the embedder."""


def quality(index: Index, asked: Sequence[sets.Asked], how: str) -> dict[str, float]:
    """nDCG@10 of each question; a document stands where its best chunk does."""
    documents = {c.id: c.doc_id for c in index.chunks()}
    found = {}
    dense = index.dense([a.text for a in asked], 50)
    for a, near in zip(asked, dense, strict=True):
        hits = near if how == "dense" else index.hybrid(a.text, 50, weight=WEIGHT)
        found[a.id] = ndcg(list(dict.fromkeys(documents[h.id] for h in hits)), a.gold)
    return found


def measure(
    folder: Path, work: Path, overrides: dict[str, Any], seed: int, passages: int
) -> dict[str, Any]:
    """Tune on one half, report on the other."""
    data = sets.load(folder)
    by_id = {d.id: d for d in data.documents}
    settings = make_config(
        {"documents": "d", "questions": "q", "training": {"retriever": {"epochs": 3, **overrides}}}
    ).training.retriever
    base = load_embedder("embedded")
    index = data.index(base, work / folder.name)
    mine = [a for a in data.asked if sets.half(a) == "dev"]
    test = [a for a in data.asked if sets.half(a) == "test"]
    mine.sort(key=lambda a: hashlib.md5(a.id.encode()).digest())
    cut = len(mine) // 5
    dev, train = mine[:cut], mine[cut:]
    started = time.perf_counter()
    pairs = retriever_pairs(examples(train, by_id), index, by_id, negatives=settings.negatives)
    pairs_s = time.perf_counter() - started
    tuned = train_embedder(
        pairs[:passages] if passages else pairs,
        minilm_folder(),
        work / f"{folder.name}-tuned",
        settings,
        seed=seed,
        progress=lambda n, steps, loss: print(f"step {n}/{steps}, loss {loss:.3f}", flush=True),
    )
    other = load_embedder(f"local:{tuned.path}")
    other.name = f"tuned-{tuned.digest}"
    started = time.perf_counter()
    own = data.index(other, work / f"{folder.name}-{tuned.digest}")
    index_s = time.perf_counter() - started
    found: dict[str, Any] = {
        "questions": {"train": len(train), "dev": len(dev), "test": len(test)},
        "pairs": tuned.pairs,
        "pairs_s": round(pairs_s, 1),
        "training_s": round(tuned.seconds, 1),
        "reindex_s": round(index_s, 1),
        "settings": settings.model_dump(),
        "losses": tuned.losses,
    }
    for part, asked in (("dev", dev), ("test", test)):
        for how in ("dense", "hybrid"):
            before, after = (quality(i, asked, how) for i in (index, own))
            found[f"{part}, {how}"] = {
                "before": round(float(np.mean(list(before.values()))), 4),
                "after": round(float(np.mean(list(after.values()))), 4),
                "gain": difference(after, before, [a.group for a in asked]),
            }
    found["kept"] = found["dev, dense"]["after"] > found["dev, dense"]["before"]
    return found


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/retriever-tuning"))
    parser.add_argument("--set", default="scifact")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pairs", type=int, default=0, help="most pairs; 0: all")
    parser.add_argument("settings", nargs="*", help="of training.retriever, e.g. epochs=2")
    args = parser.parse_args()
    overrides = {k: json.loads(v) for k, _, v in (s.partition("=") for s in args.settings)}
    found = measure(args.data / args.set, args.work, overrides, args.seed, args.pairs)
    write_atomic(args.json, json.dumps(found, indent=1))
    for name in ("dev, dense", "dev, hybrid", "test, dense", "test, hybrid"):
        row = found[name]
        gain = row["gain"]
        print(
            f"{name:14} {row['before']:.3f} -> {row['after']:.3f}  "
            f"{gain[0]:+.3f} [{gain[1]:+.3f}, {gain[2]:+.3f}]"
        )
    print(f"{'kept' if found['kept'] else 'dropped'}; {found['training_s']:.0f} s of training")


if __name__ == "__main__":
    main()
