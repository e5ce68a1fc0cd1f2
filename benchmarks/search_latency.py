"""How long does one hybrid search take beyond embedding the query?

    python benchmarks/search_latency.py --json OUT [--chunks 100000] [--work DIR]

Chunks are made up: words drawn with natural frequencies, vectors around 2,000 centres. Queries take
eight words and the neighbourhood of some chunk. Prints p50 and p95 of full text, dense and hybrid
search, the query's vector given.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from domainlm.models.base import Array
from domainlm.retrieval import Index
from domainlm.schema import Chunk
from domainlm.stores import open_store

DIMENSION, WORDS, LENGTH, QUERIES = 384, 50_000, 110, 200


class Given:
    """An embedder whose vectors are known beforehand."""

    name = "given"
    dimension = DIMENSION

    def __init__(self) -> None:
        self.vectors: dict[str, Array] = {}

    def embed(self, texts: Sequence[str], kind: Literal["query", "passage"]) -> Array:
        """The vectors of known texts, (n, d)."""
        return np.stack([self.vectors[t] for t in texts])


def unit(rows: Any) -> Array:
    """Rows of length one."""
    found: Array = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return found


def timed(call: Callable[[str], Any], queries: Sequence[str]) -> dict[str, float]:
    """Milliseconds of single calls after a warm-up."""
    for query in queries[:20]:
        call(query)
    seconds = []
    for query in queries:
        started = time.perf_counter()
        call(query)
        seconds.append(time.perf_counter() - started)
    return {f"p{q}_ms": round(1000 * float(np.percentile(seconds, q)), 2) for q in (50, 95)}


def main() -> None:
    """Build, measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--chunks", type=int, default=100_000)
    parser.add_argument("--work", type=Path, default=Path("runs/latency"))
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    embedder = Given()
    store = open_store("lance", args.work, embedder=embedder.name, dimension=DIMENSION)
    centres = rng.normal(size=(2_000, DIMENSION))
    started = time.perf_counter()
    for start in range(len(store), args.chunks, 10_000):
        n = min(10_000, args.chunks - start)
        ranks = np.minimum(rng.zipf(1.2, size=(n, LENGTH)), WORDS)
        texts = [" ".join(f"w{r}" for r in row) for row in ranks]
        near = centres[rng.integers(0, len(centres), n)] + 0.7 * rng.normal(size=(n, DIMENSION))
        chunks = [
            Chunk(f"c{start + i}", f"d{(start + i) // 20}", t, 0, len(t), 0, len(t))
            for i, t in enumerate(texts)
        ]
        store.add(chunks, unit(near))
        print(f"{start + n} chunks, {time.perf_counter() - started:.0f} s", flush=True)
    store.optimize()
    built_s = time.perf_counter() - started
    index = Index(store, embedder)
    queries = []
    for _ in range(QUERIES):
        words = np.minimum(rng.zipf(1.2, size=24), WORDS)
        query = " ".join(f"w{w}" for w in words[words > 20][:8]) or "w21"
        queries.append(query)
        centre = centres[rng.integers(0, len(centres))]
        embedder.vectors[query] = unit((centre + 0.7 * rng.normal(size=DIMENSION))[None])[0]
    index.embed_queries(queries)
    result: dict[str, Any] = {"chunks": len(store), "build_s": round(built_s, 1)}
    result["full text"] = timed(lambda q: index.text(q, 50), queries)
    result["dense"] = timed(lambda q: index.dense([q], 50), queries)
    result["hybrid"] = timed(lambda q: index.hybrid(q, 10), queries)
    for key, value in result.items():
        print(f"{key:12}{value}")
    args.json.write_text(json.dumps(result, indent=2), "utf-8")


if __name__ == "__main__":
    main()
