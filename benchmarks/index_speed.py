"""How much slower is building an index than embedding its chunks?

    python benchmarks/index_speed.py --data DIR --json OUT [--limit N]

DIR holds CUAD_public.json.gz (SQuAD form) and may hold further corpora of the same form whose file
names contain `_extra`. In alternating pairs, in one process, the embedder alone embeds the
distinct chunk texts in one call, and a full build chunks, embeds, stores and full-text indexes the
same contracts in an empty folder. Then one document is added, changed and removed.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import importlib.metadata
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import psutil

from domainlm.corpus.chunking import chunk_document
from domainlm.models.base import Embedder, load_embedder
from domainlm.retrieval import Index, build_index
from domainlm.schema import Document

T = TypeVar("T")
CHARACTERS = 270_000
"""Default size: about 60,000 tokens."""
PAIRS = 3
TOKENS = 160
MINIMUM = 0.75
"""Throughput of the build over that of the embedder alone must not fall below this."""


def make_document(doc_id: str, text: str) -> Document:
    """A plain-text document."""
    sha = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return Document(doc_id, doc_id, doc_id, text, "text/plain", sha)


def load_contracts(folder: Path) -> tuple[list[Document], list[str]]:
    """Every contract of every matching file, in an order that depends on the titles alone."""
    paths = sorted(
        p
        for p in folder.iterdir()
        if p.name == "CUAD_public.json.gz"
        or ("_extra" in p.name and p.name.endswith((".json", ".json.gz")))
    )
    if not paths:
        raise SystemExit(f"{folder} holds no CUAD_public.json.gz and no *_extra*.json[.gz]")
    documents: dict[str, Document] = {}
    for path in paths:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        for n, entry in enumerate(json.loads(raw)["data"]):
            title = entry.get("title") or f"{path.name}#{n}"
            text = "\n".join(p["context"] for p in entry["paragraphs"])
            doc_id = title if title not in documents else f"{path.name}#{n}"
            documents[doc_id] = make_document(doc_id, text)
    order = sorted(documents.values(), key=lambda d: hashlib.sha256(d.id.encode()).digest())
    return order, [p.name for p in paths]


def timed(work: Callable[[], T]) -> tuple[float, T]:
    """Wall seconds and result."""
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def measure(documents: Sequence[Document], embedder: Embedder) -> dict[str, Any]:
    """Time embedding alone against whole builds, then incremental updates."""
    chunk = partial(chunk_document, use="recursive", tokens=TOKENS)
    chunks = [c for d in documents for c in chunk(d)]
    texts = list(dict.fromkeys(c.indexed_text for c in chunks))
    count = getattr(embedder, "count_tokens", lambda text: len(text) / 4.5)
    tokens = int(sum(count(t) for t in texts))
    embedder.embed(texts[:64], "passage")
    alone, build = [], []
    with tempfile.TemporaryDirectory() as scratch:

        def full(name: str, some: Sequence[Document] = documents) -> Index:
            return build_index(Path(scratch) / name, some, chunk, embedder, settings=TOKENS)

        full("warm", documents[:1])
        for pair in range(PAIRS):
            for which in ("alone", "build") if pair % 2 == 0 else ("build", "alone"):
                if which == "alone":
                    alone.append(timed(lambda: embedder.embed(texts, "passage"))[0])
                else:
                    build.append(timed(partial(full, f"pair{pair}"))[0])
            print(f"pair {pair + 1}: alone {alone[-1]:.2f} s, build {build[-1]:.2f} s", flush=True)
        updates = measure_updates(Path(scratch) / "pair0", documents, chunk, embedder)
    seconds_alone, seconds_build = statistics.median(alone), statistics.median(build)
    ratio = statistics.median(a / b for a, b in zip(alone, build, strict=True))
    return {
        "documents": len(documents),
        "chunks": len(chunks),
        "distinct_chunk_texts": len(texts),
        "tokens": tokens,
        "embedder_alone_s": alone,
        "full_build_s": build,
        "embedder_tokens_per_s": tokens / seconds_alone,
        "build_tokens_per_s": tokens / seconds_build,
        "throughput_ratio": ratio,
        "minimum_ratio": MINIMUM,
        "within_limit": ratio >= MINIMUM,
        "incremental": updates,
    }


def measure_updates(
    folder: Path, documents: Sequence[Document], chunk: Callable[..., Any], embedder: Embedder
) -> dict[str, Any]:
    """Seconds and effect of adding, changing and removing one document, and of doing nothing."""
    subject = documents[-1]
    middle = len(subject.text) // 2
    edited = f"{subject.text[:middle]} This clause was amended. {subject.text[middle:]}"
    added = make_document("added", "Addendum. " + subject.text[: middle or None])
    steps = {
        "nothing": list(documents),
        "add": [*documents, added],
        "change": [*documents[:-1], make_document(subject.id, edited), added],
        "remove": [*documents[:-1], added],
    }
    result = {}
    for name, now in steps.items():
        work = partial(build_index, folder, now, chunk, embedder, settings=TOKENS)
        seconds, index = timed(work)
        # The index remembers what all its building took; here it is this step alone.
        result[name] = asdict(index.delta) | {"seconds": seconds}
    return result


def provenance(embedder: Embedder) -> dict[str, Any]:
    """Versions and hardware."""
    packages = ("domainlm", "lancedb", "pyarrow", "torch", "transformers", "numpy", "semchunk")
    return {
        "date": time.strftime("%Y-%m-%d"),
        "embedder": embedder.name,
        "dimension": embedder.dimension,
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in packages},
        },
        "hardware": {
            "machine": platform.machine(),
            "processor": processor(),
            "cores": os.cpu_count(),
            "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
            "load_1min_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        },
    }


def processor() -> str:
    """The processor's name where the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the corpus files")
    parser.add_argument("--json", type=Path, required=True, help="where the figures go")
    parser.add_argument("--limit", type=int, default=0, help="contracts (0: about 60,000 tokens)")
    options = parser.parse_args()
    contracts, files = load_contracts(options.data)
    if options.limit:
        chosen = contracts[: options.limit]
    else:
        chosen, size = [], 0
        for contract in contracts:
            if size + len(contract.text) <= CHARACTERS:
                chosen.append(contract)
                size += len(contract.text)
    embedder = load_embedder("embedded")
    about = provenance(embedder)
    figures = measure(chosen, embedder)
    result = {"benchmark": "index_speed", "files": files, **figures, **about}
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(
        f"{figures['documents']} contracts, {figures['chunks']} chunks, "
        f"{figures['tokens']} tokens\n"
        f"embedder alone {figures['embedder_tokens_per_s']:.0f} tokens/s, "
        f"full build {figures['build_tokens_per_s']:.0f} tokens/s: "
        f"ratio {figures['throughput_ratio']:.3f} "
        f"({'within' if figures['within_limit'] else 'BELOW'} the limit of {MINIMUM})"
    )
    for name, step in figures["incremental"].items():
        print(
            f"{name}: {step['seconds']:.2f} s (+{step['added']} -{step['deleted']} "
            f"={step['kept']} chunks)"
        )


if __name__ == "__main__":
    main()
