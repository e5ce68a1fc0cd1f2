"""A search over whole pipelines that tells the truth about its winner.

Every candidate answers the same dev questions; stages that candidates share run once. Hopeless ones
are dropped on the way, but still count in the correction for how many were tried. The winner must
beat the simple hybrid by more than the best of as many equal pipelines would by luck, or the
simple hybrid is recommended. Test questions are never looked at.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from domainlm import stats
from domainlm.artifacts import Progress, Silent
from domainlm.errors import DataError
from domainlm.evaluation.latency import percentile
from domainlm.evaluation.metrics import OBJECTIVES, Objective, retrieval_metrics
from domainlm.evaluation.tasks import clusters_of
from domainlm.models.base import record_calls
from domainlm.rag.pipeline import Retrieval
from domainlm.rag.stages import Resources
from domainlm.rag.trace import Memo, record_trace
from domainlm.schema import Interval, Question, RagSpec, StageSpec

_CHARS_PER_TOKEN = 4.3
SECONDS_PER_TOKEN = 1 / 800
"""Reading speed of the embedded model on two cores, for pipelines that are not answered."""
_BLOCK = 8
_HOPELESS = -3.0
"""Standardised sum of differences to the leader at which a candidate is dropped."""
ALPHA = 0.05

RETRIEVERS: tuple[tuple[str, tuple[StageSpec, ...]], ...] = (
    ("hybrid", (StageSpec("hybrid"),)),
    ("bm25", (StageSpec("bm25"),)),
    ("dense", (StageSpec("dense"),)),
    ("hybrid rrf", (StageSpec("hybrid", {"method": "rrf"}),)),
    ("hybrid .3", (StageSpec("hybrid", {"weight": 0.3}),)),
    ("hybrid .5", (StageSpec("hybrid", {"weight": 0.5}),)),
    ("rocchio", (StageSpec("rocchio", {"weight": 0.5}),)),
    ("rocchio .7", (StageSpec("rocchio", {"weight": 0.7}),)),
    ("graph", (StageSpec("graph"),)),
    ("hybrid + graph", (StageSpec("hybrid"), StageSpec("graph"))),
    ("named", (StageSpec("named"),)),
    ("named, rocchio", (StageSpec("named", {"retriever": "rocchio"}),)),
    ("graph, synonyms", (StageSpec("graph", {"synonyms": 0.9}),)),
    ("hybrid + communities", (StageSpec("hybrid"), StageSpec("communities"))),
)
READERS: tuple[tuple[str, tuple[StageSpec, ...]], ...] = (
    ("triples", (StageSpec("triples"),)),
    (
        "hybrid + communities, written",
        (StageSpec("hybrid"), StageSpec("communities", {"summaries": "model"})),
    ),
)
"""Retrievers whose model reads chunks; behind a writer one bill would hide the other."""
RERANKERS: tuple[tuple[str, tuple[StageSpec, ...]], ...] = (
    ("", ()),
    ("late", (StageSpec("late_interaction"),)),
    ("mmr", (StageSpec("mmr"),)),
)
ARRANGERS: tuple[tuple[str, tuple[StageSpec, ...]], ...] = (
    ("", ()),
    ("joined", (StageSpec("join_neighbours"),)),
)
WRITERS: tuple[tuple[str, tuple[StageSpec, ...]], ...] = (
    ("", ()),
    ("rewrite", (StageSpec("rewrite"),)),
    ("hyde", (StageSpec("hyde"),)),
    ("multi_query", (StageSpec("multi_query"),)),
)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One pipeline of a search: its quality on `n` dev questions, latency and price of retrieval
    and reading, and the p value of its gain over the simple hybrid, corrected for all candidates.
    """

    name: str
    spec: RagSpec
    n: int
    quality: float
    latency_p95_s: float
    usd_per_1000: float
    p_value: float
    dropped: bool = False
    on_front: bool = False
    fallbacks: int = 0
    """Questions for which a stage failed; such a candidate is never recommended."""


@dataclass(frozen=True, slots=True)
class StageUplift:
    """What one choice buys: the paired mean difference over all candidates that differ in it alone,
    on the questions that all of them answered, with what it adds in mean seconds and in dollars per
    1,000 questions.
    """

    stage: str
    against: str
    difference: Interval
    seconds: float
    usd_per_1000: float
    pairs: int


@dataclass(frozen=True, slots=True)
class Search:
    """The outcome of `domainlm optimize`: what to use and why, and everything that was tried."""

    metric: str
    split: str
    n_questions: int
    n_documents: int
    chosen: str
    spec: RagSpec
    reason: str
    candidates: tuple[Candidate, ...]
    uplifts: tuple[StageUplift, ...]
    seconds: float
    complete: bool


@dataclass(frozen=True)
class Prices:
    """What a question costs beyond its measured retrieval: dollars by machine second, seconds and
    dollars by prompt token, dollars by written token (hosted models).
    """

    usd_per_second: float
    seconds_per_token: float
    usd_per_token: float = 0.0
    usd_per_token_out: float = 0.0


@dataclass(frozen=True)
class Entry:
    """A candidate by its parts, simplest first in every phase."""

    parts: tuple[str, str, str, str]
    spec: RagSpec

    @property
    def name(self) -> str:
        """The parts in reading order."""
        return ", ".join(p for p in self.parts if p)


def space(
    passages: int, *, asking: bool = False, token_vectors: bool = True, limit: int = 0
) -> list[Entry]:
    """Pipelines to try, the simple hybrid first; `limit` draws that many, seeded by name.

    `asking` adds stages that ask the model, `token_vectors` late interaction.
    """
    entries = []
    rerankers = [r for r in RERANKERS if token_vectors or r[0] != "late"]
    searches = list(itertools.product(WRITERS if asking else WRITERS[:1], RETRIEVERS))
    searches += itertools.product(WRITERS[:1], READERS if asking else ())
    for (pre, base), rerank, post in itertools.product(searches, rerankers, ARRANGERS):
        spec = RagSpec(pre[1], base[1], post[1], passages, rerank[1])
        entries.append(Entry((pre[0], base[0], rerank[0], post[0]), spec))
    if limit and len(entries) > limit:
        rest = sorted(entries[1:], key=lambda e: hashlib.sha256(e.name.encode()).digest())
        kept = {e.name for e in rest[: limit - 1]}
        entries = [entries[0], *(e for e in entries[1:] if e.name in kept)]
    return entries


def search(
    entries: Sequence[Entry],
    questions: Sequence[Question],
    resources: Resources,
    prices: Prices,
    *,
    minutes: float = 0.0,
    progress: Progress | None = None,
) -> Search:
    """Try `entries`, the first of which is the one to beat, on dev questions.

    Stops after `minutes` (0: no limit) with what is known by then.

    Raises:
        DataError: a question is a test question, or none names its evidence or documents.
    """
    progress = progress or Silent()
    started = time.perf_counter()
    if any(q.split.startswith("test") for q in questions):
        raise DataError("a test question was given to the search; tune on dev questions only")
    metric, asked = _objective(questions)
    asked.sort(key=lambda q: hashlib.sha256(q.id.encode()).digest())
    memo: Memo = {}
    built = [Retrieval(e.spec, resources, memo) for e in entries]
    if built:
        built[0].prepare(asked)
    for retrieval in built:
        # Models and matrices are loaded before anything is timed.
        _measure(retrieval, asked[0], metric)
    memo.clear()
    # (questions, pipelines, [quality, seconds, prompt tokens, read, written, fell back])
    measured = np.full((len(asked), len(entries), 6), np.nan)
    scores = measured[:, :, 0]
    alive, seen = list(range(len(entries))), 0
    for n, question in enumerate(asked):
        for m in alive:
            measured[n, m] = _measure(built[m], question, metric)
        memo.clear()
        seen = n + 1
        progress.update(seen, len(asked), f"{len(alive)} of {len(entries)} pipelines in the race")
        if minutes and time.perf_counter() - started > 60 * minutes:
            break
        if seen % _BLOCK == 0:
            alive = _survivors(scores[:seen], alive)
    return _outcome(
        entries,
        asked[:seen],
        metric,
        measured[:seen],
        alive,
        prices,
        time.perf_counter() - started,
        seen == len(asked),
    )


def _objective(questions: Sequence[Question]) -> tuple[Objective, list[Question]]:
    for metric, usable in (
        (OBJECTIVES[0], [q for q in questions if q.evidence]),
        (OBJECTIVES[1], [q for q in questions if q.doc_ids and set(q.scope) != set(q.doc_ids)]),
    ):
        if usable and 2 * len(usable) >= len([q for q in questions if q.evidence or q.doc_ids]):
            return metric, usable
    raise DataError(
        f"none of {len(questions)} dev questions says where its answer stands; "
        "give `evidence` or `doc_ids`, or choose the pipeline by hand"
    )


def _measure(retrieval: Retrieval, question: Question, metric: Objective) -> tuple[float, ...]:
    with record_calls(), record_trace() as steps:
        passages = retrieval(question)
    quality = retrieval_metrics(passages, question).get(metric, 0.0)
    return (
        quality,
        sum(step.seconds for step in steps),
        sum(len(p.text) for p in passages) / _CHARS_PER_TOKEN,
        sum(step.tokens_in for step in steps),
        sum(step.tokens_out for step in steps),
        any(step.fallback for step in steps),
    )


def _survivors(scores: Any, alive: list[int]) -> list[int]:
    """Those not hopelessly behind the leader; the first, which is to be beaten, always stays."""
    means = scores[:, alive].mean(0)
    leader = alive[int(np.argmax(means))]
    kept = []
    for m in alive:
        gap = scores[:, m] - scores[:, leader]
        norm = float(np.sqrt((gap**2).sum()))
        if m in (0, leader) or norm == 0 or gap.sum() / norm > _HOPELESS:
            kept.append(m)
    return kept


def _outcome(
    entries: Sequence[Entry],
    asked: Sequence[Question],
    metric: Objective,
    measured: Any,
    alive: Sequence[int],
    prices: Prices,
    seconds: float,
    complete: bool,
) -> Search:
    scores = measured[:, :, 0]
    joined = clusters_of(asked)
    clusters = [joined[q.id] for q in asked]
    documents = len(set(clusters))
    p_values = stats.best_of_many(scores - scores[:, :1], clusters)
    candidates = []
    for m, entry in enumerate(entries):
        known = ~np.isnan(scores[:, m])
        _, took, prompt, tokens_in, tokens_out, fell_back = measured[known, m].T
        read = took + prompt * prices.seconds_per_token
        usd = (
            float(np.mean(read)) * prices.usd_per_second
            + float(np.mean(prompt + tokens_in)) * prices.usd_per_token
            + float(np.mean(tokens_out)) * prices.usd_per_token_out
        )
        candidates.append(
            Candidate(
                name=entry.name,
                spec=entry.spec,
                n=int(known.sum()),
                quality=round(float(np.mean(scores[known, m])), 6),
                latency_p95_s=round(percentile(list(read), 0.95).value, 6),
                usd_per_1000=round(1000 * usd, 6),
                p_value=float(p_values[m]),
                dropped=m not in alive,
                fallbacks=int(fell_back.sum()),
            )
        )
    best = min(
        (m for m in alive if m and p_values[m] <= ALPHA and not candidates[m].fallbacks),
        key=lambda m: (-candidates[m].quality, candidates[m].usd_per_1000, m),
        default=0,
    )
    front = _front([c for c in candidates if not c.dropped])
    candidates = [replace(c, on_front=c.name in front) for c in candidates]
    return Search(
        metric=metric,
        split=" and ".join(sorted({q.split or "unsplit" for q in asked})),
        n_questions=len(asked),
        n_documents=documents,
        chosen=candidates[best].name,
        spec=entries[best].spec,
        reason=_reason(candidates, best, scores, clusters, documents),
        candidates=tuple(sorted(candidates, key=lambda c: (c.dropped, -c.quality, c.usd_per_1000))),
        uplifts=tuple(_uplifts(entries, scores, measured[:, :, 1], clusters, candidates)),
        seconds=round(seconds, 3),
        complete=complete,
    )


def _reason(
    candidates: Sequence[Candidate], best: int, scores: Any, clusters: Sequence[str], documents: int
) -> str:
    tried, base = len(candidates), candidates[0].name
    if best:
        gain = stats.cluster_interval(scores[:, best] - scores[:, 0], clusters)
        low = "" if gain.low is None else f" [{gain.low:+.3f}, {gain.high:+.3f}]"
        return (
            f"{candidates[best].name} beats {base} by {gain.value:+.3f}{low} on {len(clusters)} "
            f"questions (p {candidates[best].p_value:.3f}, corrected for {tried} pipelines; the "
            "95 % interval is not, and a winner looks better than it is)."
        )
    if documents < stats.MIN_DOCUMENTS:
        return (
            f"{base}: {documents} documents are too few to prefer anything else; label questions "
            f"about {stats.MIN_DOCUMENTS} or more."
        )
    top = max(candidates[1:], key=lambda c: (not c.dropped, c.quality), default=candidates[0])
    return (
        f"{base}: none of the {tried - 1} others beats it beyond what the best of so many would by "
        f"luck (highest: {top.name}, {top.quality - candidates[0].quality:+.3f}, "
        f"corrected p {top.p_value:.2f})."
    )


def _front(candidates: Sequence[Candidate]) -> set[str]:
    """Names that no other beats in quality, latency and price at once."""

    def beaten(c: Candidate) -> bool:
        return any(
            o.quality >= c.quality
            and o.latency_p95_s <= c.latency_p95_s
            and o.usd_per_1000 <= c.usd_per_1000
            and (o.quality, -o.latency_p95_s, -o.usd_per_1000)
            != (c.quality, -c.latency_p95_s, -c.usd_per_1000)
            for o in candidates
        )

    return {c.name for c in candidates if not beaten(c)}


def _uplifts(
    entries: Sequence[Entry],
    scores: Any,
    took: Any,
    clusters: Sequence[str],
    candidates: Sequence[Candidate],
) -> list[StageUplift]:
    """Each choice against the simplest of its phase, all else equal."""
    place = {e.parts: m for m, e in enumerate(entries)}
    simplest = entries[0].parts
    found = []
    for phase in range(4):
        for option in dict.fromkeys(e.parts[phase] for e in entries):
            if option == simplest[phase]:
                continue
            pairs = [
                (m, place[base])
                for parts, m in place.items()
                if parts[phase] == option
                and (base := (*parts[:phase], simplest[phase], *parts[phase + 1 :])) in place
            ]
            # Pairs that finished the race say more than what its first block said of all.
            whole = [p for p in pairs if not np.isnan(scores[:, p]).any()]
            pairs = whole or pairs
            if not pairs:
                continue
            gaps = np.stack([scores[:, a] - scores[:, b] for a, b in pairs], 1)
            known = ~np.isnan(gaps).any(1)
            if not known.any():
                continue
            mean = gaps[known].mean(1)
            extra = [
                (
                    float((took[known, a] - took[known, b]).mean()),
                    candidates[a].usd_per_1000 - candidates[b].usd_per_1000,
                )
                for a, b in pairs
            ]
            found.append(
                StageUplift(
                    stage=option,
                    against=simplest[phase] or "without",
                    difference=stats.cluster_interval(
                        list(mean), [c for c, k in zip(clusters, known, strict=True) if k]
                    ),
                    seconds=round(float(np.mean([s for s, _ in extra])), 6),
                    usd_per_1000=round(float(np.mean([u for _, u in extra])), 6),
                    pairs=len(pairs),
                )
            )
    return found


def as_yaml(spec: RagSpec) -> str:
    """A pipeline as the `rag` section of a configuration."""
    lines = ["rag:"]
    for phase in ("pre", "retrieve", "rerank", "post"):
        stages = getattr(spec, phase)
        if stages:
            shown = ", ".join(_flow(stage) for stage in stages)
            lines.append(f"  {phase}: [{shown}]")
    lines.append(f"  passages: {spec.passages}")
    if spec.rerank:
        lines.append(f"  depth: {spec.depth}")
    return "\n".join(lines) + "\n"


def _flow(stage: StageSpec) -> str:
    settings = [f"{key}: {json.dumps(value)}" for key, value in stage.settings.items()]
    return "{" + ", ".join([f"use: {stage.use}", *settings]) + "}"
