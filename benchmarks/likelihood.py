"""Reranking by query likelihood on public sets, its weight chosen on the other sets.

    python benchmarks/likelihood.py --data DIR --json OUT [--work DIR] [--sets scifact,musique]

The first 10 passages of hybrid search, reordered by how likely the embedded model is to go on with
the question after reading each, as the stage `likelihood` does; here every passage is read once for
all questions that it is a candidate for. Prints nDCG@10 by weight, and for each set the default
weight and the one that is best on the mean of the others, paired with hybrid search by what
questions are about. What was read is kept under `--work`: interrupted, the same command goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

import sets
from domainlm.artifacts import Log, digest
from domainlm.models.adapted import prefixed_cache
from domainlm.models.base import Embedder, load_chat_model, load_embedder
from domainlm.models.local import LocalModel
from domainlm.rag.rerank import reorder, titled
from domainlm.rag.retrieve import hybrid
from domainlm.rag.stages import Resources
from domainlm.schema import Passage
from retrieval import difference, ndcg

SETS = {
    "musique": 72,
    "cranfield": 80,
    "lihua_world": 60,
    "scifact": 200,
}
"""Questions of each, drawn by their ids."""
DEPTH, MAX_CHARS = 10, 1_000
DEEP = 30
"""Passages of a ranking, reordered or not."""
DEFAULT = 0.4
"""Weight of the stage."""
WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0)
ROWS = 16
"""Questions that are read at once after a passage."""


@dataclass(frozen=True)
class Told:
    """Nats of every token of each question, by its id, after one text."""

    text: str
    nats: dict[str, list[float]]


@dataclass(frozen=True)
class Found:
    """What hybrid search offers a question."""

    asked: sets.Asked
    passages: list[Passage]


class Reader:
    """The model, and what it was asked before."""

    def __init__(self, path: Path) -> None:
        self._log = Log(path, Told)
        self.known: dict[tuple[str, str], list[float]] = {}
        for told in self._log.read():
            self._learn(told)

    @cached_property
    def _model(self) -> LocalModel:
        model = load_chat_model("embedded")
        assert isinstance(model, LocalModel)
        return model

    def read(self, found: Sequence[Found]) -> None:
        """Every text for each question that it is offered to, short ones first."""
        asking: dict[str, list[sets.Asked]] = defaultdict(list)
        for f in found:
            for passage in f.passages[:DEPTH]:
                text = shown(passage)
                if (digest(text), f.asked.id) not in self.known:
                    asking[text].append(f.asked)
        started, tokens = time.process_time(), 0
        for n, text in enumerate(sorted(asking, key=len), 1):
            nats, read = self._nats(text, [a.text for a in asking[text]])
            tokens += read
            ids = [a.id for a in asking[text]]
            told = Told(digest(text), dict(zip(ids, nats, strict=True)))
            self._log.append([told])
            self._learn(told)
            if n % 200 == 0 or n == len(asking):
                took = time.process_time() - started
                print(f"  {n}/{len(asking)} texts, {tokens} tokens, {took:.0f} s", flush=True)

    def nats(self, passage: Passage, asked: sets.Asked) -> list[float]:
        """What `read` found."""
        return self.known[digest(shown(passage)), asked.id]

    def _learn(self, told: Told) -> None:
        self.known |= {(told.text, i): nats for i, nats in told.nats.items()}

    def _nats(self, text: str, questions: Sequence[str]) -> tuple[list[list[float]], int]:
        """The tokens' nats of each question, and how many tokens were read."""
        local = self._model
        plain = {"add_special_tokens": False, "split_special_tokens": True}
        first = local.tokenizer(text, **plain)["input_ids"]
        asked = local.tokenizer(list(questions), **plain)["input_ids"]
        found, tokens = [], len(first)
        with torch.inference_mode():
            cache = prefixed_cache(local.model.config, (), 1)
            local.model(
                input_ids=torch.tensor([first[:-1]]),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            prefix = tuple((layer.keys.clone(), layer.values.clone()) for layer in cache.layers)
            for start in range(0, len(asked), ROWS):
                rows = asked[start : start + ROWS]
                width = max(map(len, rows))
                # The text's last token leads to the question's first; padding stands to the right.
                ids = torch.tensor([[first[-1], *row, *[0] * (width - len(row))] for row in rows])
                places = torch.arange(len(first) - 1, len(first) - 1 + width)
                logits = local.model(
                    input_ids=ids[:, :-1],
                    position_ids=places[None].expand(len(rows), -1),
                    past_key_values=prefixed_cache(local.model.config, prefix, len(rows)),
                    use_cache=True,
                ).logits.float()
                picked = torch.log_softmax(logits, -1).gather(2, ids[:, 1:, None])[..., 0]
                tokens += len(rows) * width
                for row, own in zip(rows, picked, strict=True):
                    found.append([round(-float(x), 3) for x in own[: len(row)]])
        return found, tokens


def shown(passage: Passage) -> str:
    """What stands before the question, as the stage has it."""
    return f"{titled(passage, MAX_CHARS)}\n"


def candidates(name: str, folder: Path, work: Path, embedder: Embedder) -> list[Found]:
    """Passages of hybrid search for the questions of a set."""
    data = sets.load(folder)
    by_id = {d.id: d for d in data.documents}
    retrieve = hybrid(Resources(data.index(embedder, work / name), by_id, embedder))
    drawn = sorted(data.asked, key=lambda a: hashlib.md5(a.id.encode()).digest())[: SETS[name]]
    return [Found(a, retrieve(a.text, DEEP, ())) for a in drawn]


def reranked(found: Sequence[Found], reader: Reader, weight: float) -> dict[str, float]:
    """nDCG@10 of documents in the order of their best passages, by question."""
    values = {}
    for f in found:
        head, tail = f.passages[:DEPTH], f.passages[DEPTH:]
        scores = [-float(np.mean(reader.nats(p, f.asked))) for p in head]
        order = [*reorder(head, scores, weight), *tail]
        values[f.asked.id] = ndcg(list(dict.fromkeys(p.doc_id for p in order)), f.asked.gold)
    return values


def mean(values: Mapping[str, float]) -> float:
    """Over all questions."""
    return float(np.mean(list(values.values())))


def main() -> None:
    """Read, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/likelihood"))
    parser.add_argument("--sets", default=",".join(SETS))
    args = parser.parse_args()
    embedder = load_embedder("embedded")
    by_weight: dict[str, dict[float, dict[str, float]]] = {}
    groups: dict[str, list[str]] = {}
    result: dict[str, Any] = {}
    for name in args.sets.split(","):
        found = candidates(name, args.data / name, args.work, embedder)
        reader = Reader(args.work / f"told-{name}.jsonl")
        reader.read(found)
        by_weight[name] = {w: reranked(found, reader, w) for w in WEIGHTS}
        groups[name] = [f.asked.group for f in found]
        row = {str(w): round(mean(v), 4) for w, v in by_weight[name].items()}
        result[name] = {"questions": len(found), "ndcg@10": row}
        print(name, len(found), " ".join(f"{w}:{v:.3f}" for w, v in row.items()), flush=True)
    for name, own in by_weight.items():
        others = [v for other, v in by_weight.items() if other != name]
        if others:
            best = max(WEIGHTS, key=lambda w: sum(mean(v[w]) for v in others))
            for kind, weight in (("chosen", best), ("default", DEFAULT)):
                gain = difference(own[weight], own[0.0], groups[name])
                result[name][kind] = {"weight": weight, "gain": gain}
                print(
                    f"{name:16}{kind:8}{weight}: {mean(own[0.0]):.3f} to {mean(own[weight]):.3f} "
                    f"{gain[0]:+.3f} [{gain[1]:+.3f}, {gain[2]:+.3f}]"
                )
    args.json.write_text(json.dumps(result, indent=2), "utf-8")


if __name__ == "__main__":
    main()
