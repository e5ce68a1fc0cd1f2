"""Whether to put what was found into the prompt, where users ask about the domain and much else.

    python benchmarks/fetch_policy.py --json OUT [--data DIR] [--adapter FOLDER] [--work DIR]

Held-out questions of the shipped example (or of another DIR with a `domainlm.yaml`) and the shipped
general items (sums, common sense, instructions, formats, what nobody can know) are all answered
twice by the same weights: with the passages of a dense search, and closed book. Half of the
documents and items teach the policy, the other half tests it. FOLDER is an adapter of a finished
run of the same data (`runs/NAME/adapters/raft-…/adapter`), whose split this is; without one, the
base model answers. About ten minutes on a core; interrupted, the same command goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from domainlm import stats
from domainlm.artifacts import Log, RunDir, digest
from domainlm.bench import sample
from domainlm.config import load_config
from domainlm.contenders import open_index, stage_resources
from domainlm.display.progress import Bars
from domainlm.evaluation import general
from domainlm.evaluation.tasks import clusters_of, score_answers
from domainlm.ground import corpus_key, read_corpus, split_corpus
from domainlm.models.base import load_chat_model, load_embedder
from domainlm.rag.arms import arm_of
from domainlm.rag.pipeline import Answerer, Retrieval
from domainlm.rag.stages import Resources
from domainlm.schema import Answer, Question, RagSpec, Sampling, StageSpec
from domainlm.training import fetch

EXAMPLE = Path(__file__).parents[1] / "examples" / "aldervale"
ITEMS = {i.id: i for part in ("gate", "train") for i in general.general_items(part)}
MARGIN = 0.05
_BATCH = 16


def prepared(
    args: argparse.Namespace, folder: RunDir, bars: Bars
) -> tuple[list[Question], Resources]:
    """The questions of both kinds, and what a search needs."""
    config = load_config(args.data / "domainlm.yaml")
    key = corpus_key(config)
    documents, _ = read_corpus(config, folder, key, bars)
    questions, _ = split_corpus(config, folder, key, documents)
    embedder = load_embedder("embedded")
    index, _ = open_index(folder, key, config, documents, embedder, bars)
    resources = stage_resources(config, index, {d.id: d for d in documents}, questions, embedder)
    held_out = sample([*questions.dev, *questions.test], args.questions)
    return [*held_out, *(Question(i, ITEMS[i].prompt) for i in ITEMS)], resources


def answered(arm: Answerer, asked: Sequence[Question], log: Log, name: str) -> list[Answer]:
    """What an arm says to every question, kept batch by batch."""
    done = {a.question_id: a for a in log.read()}
    left = [q for q in asked if q.id not in done]
    for start in range(0, len(left), _BATCH):
        made = arm(left[start : start + _BATCH])
        log.append(list(made))
        done |= {a.question_id: a for a in made}
        print(f"{name}: {len(done)} of {len(asked)} answered", flush=True)
    return [done[q.id] for q in asked]


def qualities(asked: Sequence[Question], answers: Sequence[Answer]) -> list[float]:
    """The metric of each question's task; of a general item, whether its checker passes."""
    own = [q for q in asked if q.id not in ITEMS]
    known = {s.question_id: s.metrics["primary"] for s in score_answers(
        [a for a in answers if a.question_id not in ITEMS], own)}  # fmt: skip
    return [
        known[q.id] if q.id in known else float(general.passes(ITEMS[q.id], a.text))
        for q, a in zip(asked, answers, strict=True)
    ]


def measured(
    price: float,
    x: np.ndarray,
    quality: np.ndarray,
    tokens: np.ndarray,
    clusters: np.ndarray,
    general_items: np.ndarray,
) -> dict[str, Any]:
    """A policy learned on one half of the clusters and tested on the other."""
    half = np.array([hashlib.sha256(c.encode()).digest()[0] % 2 == 0 for c in clusters])
    policy = fetch.learn(
        "rag", x[half], quality[half], tokens[half], clusters[half].tolist(), price
    )
    assert policy is not None
    test = ~half
    centre, scale, weights = (np.array(v) for v in (policy.centre, policy.scale, policy.weights))
    fetched = (x[test] - centre) / scale @ weights[:-1] + weights[-1] >= 0
    action = {
        "always": np.full(test.sum(), fetch.ALWAYS),
        "never": np.full(test.sum(), fetch.NEVER),
        "learned": np.where(fetched, fetch.ALWAYS, fetch.NEVER),
    }
    row = np.arange(test.sum())
    got = {n: (quality[test][row, a], tokens[test][row, a]) for n, a in action.items()}
    groups = clusters[test].tolist()
    found: dict[str, Any] = {"price": price, "policy": asdict(policy), "questions": len(row)}
    found["fetched"] = {
        "general items": float(fetched[general_items[test]].mean()),
        "domain": float(fetched[~general_items[test]].mean()),
    }
    for name, (right, used) in got.items():
        found[name] = {
            "quality": float(right.mean()),
            "tokens": float(used.mean()),
            "fetched": float(action[name].mean()),
        }
    for other in ("always", "never"):
        for n, what in enumerate(("quality", "tokens")):
            result = stats.paired_difference(
                got["learned"][n].tolist(), got[other][n].tolist(), groups, MARGIN
            )
            found[f"{what}, learned less {other}"] = asdict(result.difference)
    return found


def shown(found: dict[str, Any]) -> str:
    """One price in lines."""
    policy = found["policy"]
    lines = [
        f"price {found['price']:g}: {'kept' if policy['kept'] else 'not kept'} (over always from "
        f"{policy['over_always']['low']:+.3f}, over never from {policy['over_never']['low']:+.3f} "
        f"on the learning half); {found['questions']} test questions"
    ]
    for name in ("always", "never", "learned"):
        m = found[name]
        lines.append(
            f"  {name:8} quality {m['quality']:.3f}, {m['tokens']:.0f} prompt tokens, "
            f"fetched {m['fetched']:.0%}"
        )
    by = ", ".join(f"{share:.0%} of the {kind}" for kind, share in found["fetched"].items())
    lines.append(f"  it fetches for {by}")
    for key, d in found.items():
        if "learned less" in key:
            lines.append(f"  {key}: {d['value']:+.3f} [{d['low']:+.3f}, {d['high']:+.3f}]")
    return "\n".join(lines)


def main() -> None:
    """Answer both ways, learn at several prices, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=EXAMPLE)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--work", type=Path, default=Path("runs/fetch-policy"))
    parser.add_argument("--questions", type=int, default=100, help="about the domain")
    parser.add_argument("--prices", type=float, nargs="+", default=[0, 1, 5, 20])
    args = parser.parse_args()
    with Bars() as bars, RunDir(args.work, bars.stage) as folder:
        asked, resources = prepared(args, folder, bars)
        retrieval = Retrieval(RagSpec(retrieve=(StageSpec("dense"),)), resources)
        retrieval.prepare(asked)
        model = load_chat_model("embedded", adapter=args.adapter)
        key = digest([q.id for q in asked], model.name)
        pair = []
        for name in ("base", "rag"):
            arm = arm_of(name, model, Sampling(max_tokens=64), retrieval)
            log = Log(folder.path / f"{name}-{key}.jsonl", Answer)
            pair.append(answered(arm.answer, asked, log, name))
        x = np.array(
            [fetch.signs(q, a.passages, resources) for q, a in zip(asked, pair[1], strict=True)]
        )
    quality = np.array([qualities(asked, answers) for answers in pair]).T
    tokens = np.array([[a.tokens_in for a in answers] for answers in pair], float).T
    groups = clusters_of(asked)
    clusters = np.array([groups[q.id] for q in asked])
    items = np.array([q.id in ITEMS for q in asked])
    print(f"{(~items).sum()} questions about the domain, {items.sum()} general items")
    found = [measured(p, x, quality, tokens, clusters, items) for p in args.prices]
    args.json.write_text(json.dumps({"signs": fetch.SIGNS, "prices": found}, indent=2), "utf-8")
    print(*map(shown, found), sep="\n")


if __name__ == "__main__":
    main()
