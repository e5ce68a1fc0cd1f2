"""Where an answer was lost: parsed, chunked, found, ranked, packed into the prompt, read.

For each question that an arm missed, the evidence is followed through the pipeline; the step after
the last one that holds all of it is where the question was lost. The pipeline runs again for that;
the reader is not asked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from domainlm.artifacts import Progress, Silent
from domainlm.corpus.quotes import find_quote
from domainlm.errors import ConfigError
from domainlm.evaluation.metrics import retrieval_metrics
from domainlm.rag.pipeline import Retrieval
from domainlm.rag.stages import Resources
from domainlm.schema import Answer, Passage, Question, RagSpec, Score, StageSpec

STEPS: tuple[tuple[str, str], ...] = (
    ("parsed", "the evidence does not stand in the parsed text of its document"),
    ("chunked", "no chunk holds the evidence whole"),
    ("first 100", "not among the first 100 candidates"),
    ("ranked", "found, but ranked below what is kept"),
    ("packed", "ranked, but cut or dropped before the prompt"),
    ("read", "in the prompt, but answered wrongly or not at all"),
)
"""Steps in order, and what it means to be lost there."""
UNLABELLED = "unlabelled"
_FAR = 100


@dataclass(frozen=True, slots=True)
class Loss:
    """A missed question, the step where its evidence was lost, and how much of it each step held
    (step, share).
    """

    question_id: str
    arm: str
    step: str
    held: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class Waterfall:
    """Losses of one arm: `asked` questions that can be answered, `missed` of them, by step."""

    arm: str
    asked: int
    missed: int
    by_step: tuple[tuple[str, int], ...]
    losses: tuple[Loss, ...]


def waterfall(
    arm: str,
    questions: Sequence[Question],
    answers: Sequence[Answer],
    scores: Sequence[Score],
    spec: RagSpec,
    resources: Resources,
    progress: Progress | None = None,
) -> Waterfall:
    """Follow the evidence of every question that `arm` missed.

    Questions without an answer in the documents do not count: nothing can be lost there.

    Raises:
        ConfigError: the arm answered nothing, or from no passages.
    """
    progress = progress or Silent()
    own = {a.question_id: a for a in answers if a.arm == arm}
    if not own or not any(a.passages for a in own.values()):
        known = sorted({a.arm for a in answers if a.passages})
        raise ConfigError(f"arm {arm!r} has no retrieved answers in this run; choose from {known}")
    outcome = {s.question_id: s.outcome for s in scores if s.arm == arm}
    asked = [q for q in questions if q.id in own and q.task != "unanswerable"]
    missed = [q for q in asked if outcome.get(q.id) != "correct"]
    retrieval = Retrieval(spec, resources)
    far = Retrieval(replace(spec, rerank=(), post=()), resources)
    losses = []
    for n, question in enumerate(missed, 1):
        losses.append(_follow(question, own[question.id], retrieval, far, resources))
        progress.update(n, len(missed))
    counts = Counter(loss.step for loss in losses)
    order = [name for name, _ in STEPS] + [UNLABELLED]
    return Waterfall(
        arm,
        len(asked),
        len(missed),
        tuple((step, counts[step]) for step in order if counts[step] or step != UNLABELLED),
        tuple(losses),
    )


def _follow(
    question: Question, answer: Answer, retrieval: Retrieval, far: Retrieval, resources: Resources
) -> Loss:
    spec = retrieval.spec
    if not question.evidence and not question.doc_ids:
        return Loss(question.id, answer.arm, UNLABELLED, ())
    ranked = retrieval.rank(question, spec.passages)
    held = (
        ("parsed", _parsed(question, resources)),
        ("chunked", _chunked(question, resources)),
        ("first 100", _held(question, far.rank(question, _FAR))),
        ("ranked", _held(question, ranked)),
        # What the model was shown, not what a second try would show it.
        ("packed", _held(question, answer.passages)),
    )
    # A later step may hold what an earlier one seemed to lack: joined neighbours, other spelling.
    full = [n for n, (_, share) in enumerate(held) if share >= 1]
    lost = STEPS[full[-1] + 1][0] if full else STEPS[0][0]
    return Loss(question.id, answer.arm, lost, held)


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
        phases = (spec.pre, spec.retrieve, spec.rerank, spec.post)
        names = sorted({s.use for phase in phases for s in phase})
        raise ConfigError(f"stage {stage!r} is not in this pipeline; it has {', '.join(names)}")
    return changed
