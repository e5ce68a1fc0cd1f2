"""Where an answer was lost: parsed, chunked, found, ranked, packed into the prompt, used.

For each question that an arm missed, the evidence is followed through the pipeline; the step after
the last one that holds all of it is where the question was lost. What the pipeline searched for
and what it ranked is in the answer's trace: no model is asked again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from domainlm.artifacts import Progress, Silent
from domainlm.corpus.quotes import find_quote
from domainlm.errors import ConfigError, ModelError
from domainlm.evaluation.metrics import retrieval_metrics
from domainlm.models.base import ChatModel
from domainlm.rag.pipeline import Retrieval, fuse
from domainlm.rag.rocchio import evidence_spans
from domainlm.rag.stages import Resources
from domainlm.schema import (
    Answer,
    Loss,
    Passage,
    Question,
    RagSpec,
    Score,
    StageSpec,
    Waterfall,
)

STEPS: tuple[tuple[str, str], ...] = (
    ("parsed", "the evidence does not stand in the parsed text of its document"),
    ("chunked", "no chunk holds the evidence whole"),
    ("first 100", "not among the first 100 candidates"),
    ("shortlisted", "among the first 100, but not among the candidates that are reranked"),
    ("ranked", "a candidate, but ranked below what is kept"),
    ("packed", "ranked, but cut or dropped before the prompt"),
    ("used", "in the prompt, but the answer traces back to none of it"),
    ("answered", "the answer traces back to the evidence and is wrong all the same"),
)
"""Steps in order, and what it means to be lost there; a pipeline without rerankers has no short
list.
"""
UNLABELLED = "unlabelled"
MEANING = {**dict(STEPS), UNLABELLED: "no evidence or document is labelled"}
_FAR = 100


def waterfalls(
    questions: Sequence[Question],
    answers: Sequence[Answer],
    scores: Sequence[Score],
    spec: RagSpec,
    resources: Resources,
    progress: Progress | None = None,
) -> tuple[Waterfall, ...]:
    """The losses of every arm that answered from passages, in the order of `answers`.

    Questions without an answer in the documents do not count: nothing can be lost there.
    """
    progress = progress or Silent()
    arms = list(dict.fromkeys(a.arm for a in answers if _retrieved(a)))
    known = {(s.arm, s.question_id): s.outcome for s in scores}
    own = {(a.arm, a.question_id): a for a in answers}
    track = _Track(spec, resources)
    made = []
    for n, arm in enumerate(arms, 1):
        asked = [q for q in questions if (arm, q.id) in own and q.task != "unanswerable"]
        missed = [q for q in asked if known.get((arm, q.id)) != "correct"]
        losses = tuple(track.follow(q, own[arm, q.id]) for q in missed)
        counts = Counter(loss.step for loss in losses)
        by_step = [(step, counts[step]) for step in track.steps]
        if counts[UNLABELLED]:
            by_step.append((UNLABELLED, counts[UNLABELLED]))
        made.append(Waterfall(arm, len(asked), len(missed), tuple(by_step), losses))
        progress.update(n, len(arms), arm)
    return tuple(made)


def of_arm(found: Iterable[Waterfall], arm: str) -> Waterfall:
    """The waterfall of one arm.

    Raises:
        ConfigError: the arm answered nothing, or from no passages.
    """
    by_arm = {w.arm: w for w in found}
    if arm not in by_arm:
        raise ConfigError(
            f"arm {arm!r} has no retrieved answers in this run; choose from {sorted(by_arm)}"
        )
    return by_arm[arm]


class _Track:
    """Follows the evidence of questions through one pipeline; what all arms share, once."""

    def __init__(self, spec: RagSpec, resources: Resources) -> None:
        self._spec, self._resources = spec, resources
        self.steps = [name for name, _ in STEPS if name != "shortlisted" or spec.rerank]
        kept = {k: v for k, v in resources.cache.items() if k != "model"}
        mute = replace(resources, load_model=_mute, cache=kept)
        self._far = Retrieval(replace(spec, pre=(), rerank=(), post=()), mute)
        self._early: dict[tuple[str, tuple[str, ...]], tuple[float, float, float]] = {}

    def follow(self, question: Question, answer: Answer) -> Loss:
        """The step that lost the question."""
        if not question.evidence and not question.doc_ids:
            return Loss(question.id, answer.arm, UNLABELLED, ())
        queries = next((s.queries for s in reversed(answer.trace) if s.phase == "pre"), ())
        key = question.id, queries
        if key not in self._early:
            far = self._far.rank(question, _FAR, queries)
            self._early[key] = (
                _parsed(question, self._resources),
                _chunked(question, self._resources),
                _held(question, far),
            )
        candidates, ranked = self._ranked(answer)
        later = {
            "shortlisted": _held(question, candidates),
            "ranked": _held(question, ranked),
            "packed": _held(question, answer.passages),
            "used": _used(question, answer, self._resources),
        }
        shares = dict(zip(self.steps, self._early[key], strict=False)) | later
        held = tuple((step, shares[step]) for step in self.steps if step in shares)
        # A later step may hold what an earlier one seemed to lack: joined neighbours, other
        # spelling, a search that a model led. But part of the evidence can be used, too.
        whole = shares["packed"] >= 1
        full = [
            n for n, (step, share) in enumerate(held) if share >= 1 and (step != "used" or whole)
        ]
        lost = self.steps[full[-1] + 1] if full else self.steps[0]
        return Loss(question.id, answer.arm, lost, held)

    def _ranked(self, answer: Answer) -> tuple[list[Passage], list[Passage]]:
        """The candidates that were reranked, and what came first of them, by the answer's trace."""
        spec = self._spec
        lists = [self._passages(s.chunks) for s in answer.trace if s.phase == "retrieve"]
        found = lists[0] if len(lists) == 1 else fuse(lists)
        candidates = found[: max(spec.depth, spec.passages)]
        if not answer.trace or (answer.passages and not spec.post):
            # What was ranked is what was shown, if it was. Ids do not tell that overlapping windows
            # were joined, and answers of earlier versions have no trace.
            return candidates, list(answer.passages)
        reranked = [s.chunks for s in answer.trace if s.phase == "rerank"]
        return candidates, (self._passages(reranked[-1]) if reranked else found)[: spec.passages]

    def _passages(self, ids: Sequence[str]) -> list[Passage]:
        hits = [(chunk_id, 0.0) for chunk_id in ids]
        return self._resources.index.passages(hits, self._resources.documents)


def _retrieved(answer: Answer) -> bool:
    """Whether its arm searches; the search may have found nothing."""
    return bool(answer.passages) or any(s.phase == "retrieve" for s in answer.trace)


def _mute() -> ChatModel:
    raise ModelError("a diagnosis asks no model")


def _parsed(question: Question, resources: Resources) -> float:
    """Share of the evidence (or of the gold documents) that the parsed texts hold."""
    texts = [resources.documents[d].text for d in question.doc_ids if d in resources.documents]
    if not question.evidence:
        return len(texts) / max(len(question.doc_ids), 1)
    texts = texts or [d.text for d in resources.documents.values()]
    found = sum(any(find_quote(e, text) for text in texts) for e in question.evidence)
    return found / len(question.evidence)


def _chunked(question: Question, resources: Resources) -> float:
    """What the chunks of the gold documents hold, each shown by itself; without a gold document,
    what the texts hold: chunks of all documents would be searched for nothing.
    """
    if not question.doc_ids:
        return _parsed(question, resources)
    shown = [
        Passage(
            c.id,
            c.doc_id,
            c.title,
            resources.documents[c.doc_id].text[c.window_start : c.window_end],
            c.window_start,
            c.window_end,
            0.0,
        )
        for c in resources.index.document_chunks(question.doc_ids)
        if c.doc_id in resources.documents
    ]
    return _held(question, shown)


def _held(question: Question, passages: Sequence[Passage]) -> float:
    found = retrieval_metrics(passages, question)
    if "evidence_recall" in found:
        return found["evidence_recall"]
    gold = set(question.doc_ids)
    return len(gold & {p.doc_id for p in passages}) / max(len(gold), 1)


def _used(question: Question, answer: Answer, resources: Resources) -> float:
    """1 if a citation of the answer meets the evidence (or, without one, a gold document).

    One is enough: the answer to a question of several facts often states the last alone.
    """
    cited = [
        c
        for c in answer.citations
        if c.doc_id in resources.documents and c.doc_id in (question.doc_ids or (c.doc_id,))
    ]
    if not question.evidence:
        return float(bool(cited))
    spans = {c.doc_id: evidence_spans(question, resources.documents[c.doc_id]) for c in cited}
    return float(
        any(c.source_start < e and s < c.source_end for c in cited for s, e in spans[c.doc_id])
    )


def without(spec: RagSpec, stage: str) -> RagSpec:
    """`spec` with every stage of that name switched off; a lone retriever gives way to the hybrid.

    Raises:
        ConfigError: the pipeline has no such stage, or it is the simple hybrid itself.
    """

    def kept(stages: tuple[StageSpec, ...]) -> tuple[StageSpec, ...]:
        return tuple(s for s in stages if s.use != stage)

    changed = replace(
        spec,
        pre=kept(spec.pre),
        retrieve=kept(spec.retrieve) or RagSpec().retrieve,
        rerank=kept(spec.rerank),
        post=kept(spec.post),
    )
    if stage == "hybrid" and not kept(spec.retrieve):
        raise ConfigError("'hybrid' is this pipeline's only retriever; switch off another stage")
    if changed == spec:
        raise ConfigError(
            f"stage {stage!r} is not in this pipeline; it has {', '.join(stage_names(spec))}"
        )
    return changed


def stage_names(spec: RagSpec) -> list[str]:
    """Every stage of a pipeline once, by name."""
    phases = (spec.pre, spec.retrieve, spec.rerank, spec.post)
    return sorted({s.use for phase in phases for s in phase})


def removable(spec: RagSpec) -> list[str]:
    """The stages that `without` can switch off."""
    lone = {s.use for s in spec.retrieve} == {"hybrid"}
    return [name for name in stage_names(spec) if name != "hybrid" or not lone]
