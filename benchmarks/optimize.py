"""Does the pipeline that `domainlm optimize` recommends hold on questions that it never saw?

    python benchmarks/optimize.py --data DIR --json OUT [--work DIR] [--only aldervale,lihua_world]

The search runs on the shipped example (its dev questions) and on public sets of DIR (half of the
questions of each, at most 120). The recommended pipeline and the one that merely looked best are
then compared with the simple hybrid on the other questions. Metric: share of the gold evidence, or
of the gold documents where no evidence is labelled, among five passages.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

import sets
from domainlm import actions, contenders, optimize, stats
from domainlm.artifacts import RunDir, Silent
from domainlm.config import load_config
from domainlm.evaluation.metrics import retrieval_metrics
from domainlm.evaluation.tasks import clusters_of
from domainlm.ground import corpus_key, indexed, split_corpus
from domainlm.models.base import Embedder, load_embedder
from domainlm.rag.pipeline import Retrieval
from domainlm.rag.stages import Resources
from domainlm.schema import Question, RagSpec
from retrieval import examples

EXAMPLE = Path(__file__).parents[1] / "examples" / "aldervale" / "domainlm.yaml"
PUBLIC = ("lihua_world", "scifact")
MOST = 120
PASSAGES = 5


def shipped(work: Path, minutes: float) -> tuple[optimize.Search, list[Question], Resources]:
    """The search as the command line runs it, and the test questions with what they need."""
    config = load_config(EXAMPLE, [f"output={work.resolve()}"])
    found = actions.search(config, minutes=minutes)
    with RunDir(config.folder) as folder:
        documents, _, index, _ = indexed(config, folder, Silent())
        questions, _ = split_corpus(config, folder, corpus_key(config), documents)
    by_id = {d.id: d for d in documents}
    resources = contenders.stage_resources(config, index, by_id, questions, index.embedder)
    return found, list(questions.test), resources


def public(
    name: str, data: Path, work: Path, embedder: Embedder, minutes: float
) -> tuple[optimize.Search, list[Question], Resources]:
    """The search on half of a public set, and the other half."""
    found = sets.load(data / name)
    by_id = {d.id: d for d in found.documents}
    index = found.index(embedder, work / name)
    drawn = sorted(found.asked, key=lambda a: hashlib.md5(a.id.encode()).digest())
    dev = [a for a in drawn if sets.half(a) == "dev"][:MOST]
    labelled = tuple(examples(dev, by_id))
    resources = Resources(index, by_id, embedder, examples=labelled, leave_one_out=True)
    searched = optimize.search(
        optimize.space(PASSAGES),
        # Gold documents are judged, not the opening of each that `examples` calls evidence.
        [replace(q, evidence=(), split="dev") for q in labelled],
        resources,
        optimize.Prices(0.0, optimize.SECONDS_PER_TOKEN),
        minutes=minutes,
    )
    held_out = [
        Question(a.id, a.text, doc_ids=tuple(a.gold)) for a in drawn if sets.half(a) == "test"
    ]
    return searched, held_out, replace(resources, leave_one_out=False, cache={})


def scores(
    spec: RagSpec, metric: str, asked: Sequence[Question], resources: Resources
) -> list[float]:
    """One pipeline on the held-out questions."""
    retrieve = Retrieval(spec, resources)
    retrieve.prepare(asked)
    return [retrieval_metrics(retrieve(q), q)[metric] for q in asked]


def check(
    name: str, found: optimize.Search, held_out: Sequence[Question], resources: Resources
) -> dict[str, Any]:
    """What was recommended and what looked best, on questions that the search never saw."""
    label = "evidence" if found.metric == "evidence_recall" else "doc_ids"
    asked = [q for q in held_out if getattr(q, label)]
    joined = clusters_of(asked)
    clusters = [joined[q.id] for q in asked]
    simple = next(c for c in found.candidates if c.name == "hybrid")
    best = max((c for c in found.candidates if not c.dropped), key=lambda c: c.quality)
    plain = scores(simple.spec, found.metric, asked, resources)
    row: dict[str, Any] = {
        "pipelines": len(found.candidates),
        "minutes": round(found.seconds / 60, 2),
        "dev questions": found.n_questions,
        "held-out questions": len(asked),
        "metric": found.metric,
        "chosen": found.chosen,
        "reason": found.reason,
        "uplifts": [asdict(u) for u in found.uplifts],
    }
    print(
        f"{name}: {row['pipelines']} pipelines on {found.n_questions} questions in "
        f"{row['minutes']} min; recommended: {found.chosen}. {found.reason}"
    )
    for what, wanted in (("recommended", found.chosen), ("highest", best.name)):
        candidate = next(c for c in found.candidates if c.name == wanted)
        ours = scores(candidate.spec, found.metric, asked, resources)
        gain = stats.paired_difference(ours, plain, clusters, margin=0.02).difference
        row[what] = {
            "name": wanted,
            "dev": candidate.quality - simple.quality,
            "held_out": [gain.value, gain.low, gain.high],
            "mean": round(float(np.mean(ours)), 4),
        }
        interval = "" if gain.low is None else f" [{gain.low:+.3f}, {gain.high:+.3f}]"
        print(
            f"  {what}: {wanted}, on dev {candidate.quality - simple.quality:+.3f}, on "
            f"{len(asked)} held-out questions {gain.value:+.3f}{interval}",
            flush=True,
        )
    return row


def main() -> None:
    """Search, check, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/optimize"))
    parser.add_argument("--only", default=",".join(("aldervale", *PUBLIC)))
    parser.add_argument("--minutes", type=float, default=15, help="most for one search")
    args = parser.parse_args()
    embedder = load_embedder("embedded")
    result: dict[str, Any] = {}
    for name in args.only.split(","):
        if name == "aldervale":
            outcome = shipped(args.work, args.minutes)
        elif (args.data / name).is_dir():
            outcome = public(name, args.data, args.work, embedder, args.minutes)
        else:
            continue
        result[name] = check(name, *outcome)
        args.json.write_text(json.dumps(result, indent=2), "utf-8")


if __name__ == "__main__":
    main()
