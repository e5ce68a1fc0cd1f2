"""Clauses of many contracts in one index, when the question names its contract.

    python benchmarks/clauses.py --data DIR --json OUT [--work DIR] [--per-contract 6]

DIR holds `CUAD_public.json.gz` (SQuAD form; `*_extra*` files beside it join in). Every contract
goes into one index, cut into chunks of 180 tokens, once without and once with its title as header.
A question is CUAD's, after the contract's kind, company and year, as a person would name it. A
clause counts as found when a passage among the best five overlaps a labelled span by half of the
span or by 100 characters. Settings are chosen on dev contracts; what learns from labels sees other
contracts only. `--lexical` embeds questions but no chunks: minutes instead of an hour, for methods
that need the words of chunks alone. Interrupted, the same command goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import runpy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from domainlm import stats
from domainlm.corpus.chunking import chunk_document
from domainlm.corpus.formats_common import title_from_name
from domainlm.models.base import Array, Embedder, load_embedder
from domainlm.rag.pipeline import Retrieval
from domainlm.rag.stages import Resources
from domainlm.retrieval import MANIFEST, Index, build_index
from domainlm.schema import Document, Passage, Question, RagSpec, StageSpec
from kept import kept

LAB = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "contracts" / "prepare.py"))
TOKENS = 180
GROUP = 20
"""Contracts per build, so that an interrupted run loses little."""
K = 5
CHARACTERS = 100
_WHO_DAY_WHAT = re.compile(
    r"(?P<who>.+?)_(?:\d\d_\d\d_(?P<year>\d{4})\s*-\s*EX-[^-]*-|(?P<when>\d{4})\d{4}_.*_)"
    r"(?P<what>.+)"
)
_SUFFIX = re.compile(r"(?<=[A-Z]{4})(CORP|INC|LTD|LLC|COMPANY|CO|LP)\.?$")
RETRIEVERS: dict[str, StageSpec] = {
    "hybrid": StageSpec("hybrid", {"weight": 0.5}),
    "full text": StageSpec("bm25"),
    "dense": StageSpec("dense"),
    "hybrid .3": StageSpec("hybrid", {"weight": 0.3}),
    "rocchio": StageSpec("rocchio"),
    "named": StageSpec("named"),
    "named, .3": StageSpec("named", {"settings": {"weight": 0.3}}),
    "named, rocchio": StageSpec("named", {"retriever": "rocchio"}),
    "named, rocchio .3": StageSpec("named", {"retriever": "rocchio", "settings": {"weight": 0.3}}),
}
LEXICAL: dict[str, StageSpec] = {
    "full text": StageSpec("bm25"),
    "named, full text": StageSpec("named", {"retriever": "bm25"}),
    "named, rocchio 0": StageSpec("named", {"retriever": "rocchio", "settings": {"weight": 0.0}}),
}
CHUNKS = {"without header": False, "with header": True}


def read(data: Path, max_chars: int = 0) -> list[dict[str, Any]]:
    """The contracts, short ones first, so that a larger `max_chars` (0: all) only adds."""
    contracts = sorted(
        LAB["read_contracts"](data), key=lambda c: (len(c["paragraphs"][0]["context"]), c["title"])
    )
    return [
        c for c in contracts if not max_chars or len(c["paragraphs"][0]["context"]) <= max_chars
    ]


def documents_of(contracts: Sequence[dict[str, Any]]) -> list[Document]:
    """Contracts as the reader would make them from files of their names."""
    found = []
    for contract in contracts:
        text = contract["paragraphs"][0]["context"]
        sha = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        name = contract["title"].strip()
        found.append(Document(name, title_from_name(name), name, text, "text/plain", sha))
    return found


@dataclass(frozen=True)
class QuestionsOnly:
    """An embedder that knows questions and gives every chunk the same vector."""

    inner: Embedder
    name: str = "questions only"

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return self.inner.dimension

    def embed(self, texts: Sequence[str], kind: Literal["query", "passage"]) -> Array:
        """Unit vectors (n, d)."""
        if kind == "query":
            return self.inner.embed(texts, kind)
        return np.full((len(texts), self.dimension), self.dimension**-0.5, np.float32)


def index_of(
    documents: Sequence[Document], embedder: Embedder, folder: Path, header: bool
) -> Index:
    """One index of all contracts, built group by group."""
    cut = partial(chunk_document, tokens=TOKENS, header=header)
    started = time.perf_counter()
    manifest = folder / MANIFEST
    stored = json.loads(manifest.read_text("utf-8"))["documents"] if manifest.exists() else {}
    # What an earlier run indexed must stay: a build removes what it is not given.
    done = next((n for n, d in enumerate(documents) if d.id not in stored), len(documents))
    for end in range(max(done, GROUP), len(documents) + GROUP, GROUP):
        index = build_index(folder, documents[:end], cut, embedder, settings=(TOKENS, header))
        if index.delta.added:
            seconds = time.perf_counter() - started
            print(f"{folder.name}: {len(index)} chunks, {seconds:.0f} s", flush=True)
    return index


def spoken(title: str) -> str:
    """A contract's file name as a person would say it: what it is, whose, and of which year."""
    found = _WHO_DAY_WHAT.fullmatch(title.strip())
    if found:
        who, what = found["who"], found["what"]
        year = f" of {found['year'] or found['when']}"
    else:
        who, _, what = title.partition(" - ")
        year = ""
    who = _SUFFIX.sub(r" \1", title_from_name(who).replace(",", " ")).strip()
    what = re.sub(r"(\(\d+\)|\d+)$", "", what.strip()).replace("_", " ")
    who, what = (
        " ".join(w.capitalize() if w.isupper() and len(w) > 3 else w for w in text.split())
        for text in (who, what)
    )
    return f"the {what}{year} of {who}" if what else f"the contract{year} of {who}"


def questions_of(contract: dict[str, Any]) -> list[Question]:
    """The answerable questions of one contract, each naming it."""
    name = contract["title"].strip()
    return [
        Question(
            f"{name}#{q['category']}",
            f"In {spoken(name)}: {LAB['lab_question'](q['question'])}",
            tuple(a["text"] for a in q["answers"]),
            doc_ids=(name,),
            evidence=tuple(a["text"] for a in q["answers"]),
            metadata={
                "category": q["category"],
                "spans": json.dumps([(a["answer_start"], a["text"]) for a in q["answers"]]),
            },
        )
        for q in contract["paragraphs"][0]["qas"]
        if q["answers"]
    ]


def part_of(title: str) -> str:
    """`test` for half of the contracts, `dev` and `learn` for a quarter each; versions of one
    contract stay together.
    """
    number = int(hashlib.md5(LAB["key"](title).encode()).hexdigest(), 16)
    return ("test", "dev", "test", "learn")[number % 4]


def holds(passage: Passage, spans: Sequence[tuple[int, str]]) -> bool:
    """Whether a passage overlaps one of the spans by half of it or by 100 characters."""
    return any(
        min(start + len(text), passage.end) - max(start, passage.start)
        >= min(CHARACTERS, len(text) / 2)
        for start, text in spans
    )


def sample(questions: Sequence[Question], limit: int) -> list[Question]:
    """At most `limit` questions of one contract, drawn by their ids (0: all)."""
    order = sorted(questions, key=lambda q: hashlib.md5(q.id.encode()).digest())
    return order[:limit] if limit else order


def measure(
    spec: RagSpec, asked: Sequence[Question], resources: Resources
) -> dict[str, list[float]]:
    """Per question: clause found at 1 and at 5, share of the passages from its contract, time."""
    retrieve = Retrieval(spec, resources)
    retrieve.prepare(asked)
    values: dict[str, list[float]] = {"clause@1": [], "clause@5": [], "own contract": [], "ms": []}
    for question in asked:
        spans = json.loads(question.metadata["spans"])
        started = time.perf_counter()
        passages = retrieve(question)
        values["ms"].append(1000 * (time.perf_counter() - started))
        own = [p.doc_id in question.doc_ids for p in passages]
        found = [mine and holds(p, spans) for p, mine in zip(passages, own, strict=True)]
        values["clause@1"].append(float(any(found[:1])))
        values["clause@5"].append(float(any(found)))
        values["own contract"].append(sum(own) / max(len(own), 1))
    return values


def table(
    part: str,
    asked: Sequence[Question],
    examples: Sequence[Question],
    indexes: dict[str, Index],
    documents: dict[str, Document],
    methods: Mapping[str, StageSpec],
    work: Path,
) -> dict[str, Any]:
    """Every method on the questions of one part, with intervals by contract."""
    found: dict[str, Any] = {"questions": len(asked), "methods": {}}
    clusters = [q.doc_ids[0] for q in asked]
    base: list[float] = []
    for chunks, index in indexes.items():
        resources = Resources(index, documents, index.embedder, examples=tuple(examples))
        for method, stage in methods.items():
            spec = RagSpec(retrieve=(stage,), passages=K)
            values = kept(
                work / "results",
                partial(measure, spec, asked, resources),
                [chunks, spec, len(documents)],
                [q.id for q in asked],
                [q.id for q in examples],
            )
            base = base or values["clause@5"]
            hit = stats.cluster_interval(values["clause@5"], clusters)
            gain = stats.paired_difference(values["clause@5"], base, clusters, 0.02).difference
            groups: dict[str, list[float]] = {}
            for question, value in zip(asked, values["clause@5"], strict=True):
                groups.setdefault(question.metadata["category"], []).append(value)
            row = found["methods"][f"{method}, {chunks}"] = {
                **{m: round(float(np.mean(v)), 4) for m, v in values.items()},
                "interval": [hit.low, hit.high],
                "gain": [gain.value, gain.low, gain.high],
                "by_category": {
                    c: [round(float(np.mean(v)), 3), len(v)] for c, v in sorted(groups.items())
                },
            }
            print(
                f"{part:5}{f'{method}, {chunks}':36}{row['clause@1']:8.3f}{row['clause@5']:8.3f} "
                f"[{hit.low:.3f}, {hit.high:.3f}]{row['own contract']:8.3f}   "
                f"{gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]{row['ms']:8.1f} ms",
                flush=True,
            )
    return found


def main() -> None:
    """Index, measure on dev and test contracts, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/clauses"))
    parser.add_argument("--per-contract", type=int, default=6, help="questions; 0: all")
    parser.add_argument("--max-chars", type=int, default=0, help="skip longer contracts; 0: none")
    parser.add_argument("--parts", default="dev,test")
    parser.add_argument("--chunks", default=",".join(CHUNKS))
    parser.add_argument("--lexical", action="store_true")
    parser.add_argument("--methods", default="", help="separated by ;")
    args = parser.parse_args()
    contracts = read(args.data, args.max_chars)
    documents = documents_of(contracts)
    embedder: Embedder = load_embedder("embedded")
    place, retrievers = args.work, RETRIEVERS
    if args.lexical:
        embedder, place, retrievers = QuestionsOnly(embedder), args.work / "lexical", LEXICAL
    indexes = {
        name: index_of(documents, embedder, place / name.replace(" ", "-"), CHUNKS[name])
        for name in args.chunks.split(",")
    }
    asked: dict[str, list[Question]] = {"learn": [], "dev": [], "test": []}
    every: dict[str, list[Question]] = {part: [] for part in asked}
    for contract in contracts:
        questions = questions_of(contract)
        every[part_of(contract["title"])] += questions
        asked[part_of(contract["title"])] += sample(questions, args.per_contract)
    by_id = {d.id: d for d in documents}
    wanted = args.methods.split(";") if args.methods else list(retrievers)
    chosen = {m: r for m, r in retrievers.items() if m in wanted}
    print(f"{len(contracts)} contracts, {len(next(iter(indexes.values())))} chunks")
    print(f"{'':41}clause@1     @5 [95 %]          own contract   gain at 5 over the first line")
    result: dict[str, Any] = {
        part: table(
            part,
            asked[part],
            every["learn"] + (every["dev"] if part == "test" else []),
            indexes,
            by_id,
            chosen,
            place,
        )
        for part in args.parts.split(",")
    }
    args.json.write_text(json.dumps(result, indent=2), "utf-8")


if __name__ == "__main__":
    main()
