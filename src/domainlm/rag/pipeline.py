"""Question -> passages -> prompt -> answer, for every arm alike.

`Retrieval` runs a `RagSpec`; `answer_with` turns any prompt builder and model into an arm. All
model calls of an answer, retrieval included, are in its `calls`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from domainlm.errors import ModelError
from domainlm.fusion import rrf
from domainlm.models.base import ChatModel, purpose, record_calls
from domainlm.rag import prompts
from domainlm.rag.citations import cite
from domainlm.rag.preparing import Prepares
from domainlm.rag.stages import PostProcessor, QueryTransform, Resources, Retriever, build_stage
from domainlm.rag.trace import Memo, Phase, record_trace, run_stage
from domainlm.schema import (
    Answer,
    Call,
    Passage,
    Question,
    RagSpec,
    Sampling,
    StageSpec,
    TraceStep,
)

Retrieved = tuple[float, list[Call], tuple[TraceStep, ...]]
"""Seconds, model calls and trace of a retrieval."""
Answerer = Callable[[Sequence[Question]], list[Answer]]
Gate = Callable[[Question, Sequence[Passage]], bool]
"""Whether the model is shown what was found for a question."""
Finder = Callable[[Question], list[Passage] | None]
"""What the prompt for a question shows; None leaves passages out."""
Found = TypeVar("Found", bound=list[Passage] | None)


@dataclass(frozen=True)
class Arm:
    """One contender: a name and a function from questions to answers."""

    name: str
    answer: Answerer
    retrieves: bool


class Retrieval:
    """The retrieval half of a pipeline: transforms, retrievers fused by RRF, rerankers of the
    candidates, post-processors of the best.

    A stage that fails (`ModelError`: a model is down, or a small one's words make no sense) passes
    on what it got, and full text stands in for a retriever; the trace says so.
    """

    def __init__(self, spec: RagSpec, resources: Resources, memo: Memo | None = None) -> None:
        """Build every stage of `spec`; pipelines that share `memo` share what equal stages yield.

        Raises:
            ConfigError: a stage or a setting is unknown.
        """
        self.spec = spec
        self.resources, self._memo = resources, memo
        self._pre: list[QueryTransform] = [build_stage("pre", s, resources) for s in spec.pre]
        self._retrievers: list[Retriever] = [
            build_stage("retrieve", s, resources) for s in spec.retrieve
        ]
        self._full_text: Retriever = build_stage("retrieve", StageSpec("bm25"), resources)
        self._rerank: list[PostProcessor] = [build_stage("post", s, resources) for s in spec.rerank]
        self._post: list[PostProcessor] = [build_stage("post", s, resources) for s in spec.post]

    def prepare(self, questions: Sequence[Question]) -> None:
        """Have made what retrievers need, so that no question is billed for it, and embed the
        questions in one batch, so that single lookups hit the cache.
        """
        for retriever in self._retrievers:
            # A model that is down shows in each answer's trace.
            with contextlib.suppress(ModelError):
                if isinstance(retriever, Prepares):
                    retriever.prepare()
        with contextlib.suppress(ModelError):
            self.resources.index.embed_queries([q.text for q in questions])

    def __call__(self, question: Question, k: int | None = None) -> list[Passage]:
        """The `k` best passages (default: as many as the prompt takes)."""
        return self.finish(question, self.rank(question, k or self.spec.passages))

    def rank(self, question: Question, k: int, queries: Sequence[str] = ()) -> list[Passage]:
        """The `k` best passages, reranked, before any post-processing; `queries`, if given, stand
        in for what the stages before retrieval would write.
        """
        spec = self.spec
        depth = max(k, spec.depth) if self._rerank else k
        transforms = [] if queries else self._pre
        queries = list(queries) or [question.text]
        for n, transform in enumerate(transforms):
            written = ("pre", question.text, repr(spec.pre[: n + 1]))
            queries = run_stage(
                "pre",
                spec.pre[n].use,
                partial(transform, queries),
                partial(list, queries),
                memo=self._memo,
                key=written,
            )
        lists = []
        for stage, retrieve in zip(spec.retrieve, self._retrievers, strict=True):
            for query in queries:
                asked = query, depth, question.scope
                lists.append(
                    run_stage(
                        "retrieve",
                        stage.use,
                        partial(retrieve, *asked),
                        partial(self._full_text, *asked),
                        memo=self._memo,
                        key=(repr(stage), *asked),
                    )
                )
        found = lists[0] if len(lists) == 1 else fuse(lists)[:depth]
        return self._processed("rerank", question, spec.rerank, self._rerank, found)[:k]

    def finish(self, question: Question, passages: list[Passage]) -> list[Passage]:
        """Post-process ranked passages."""
        return self._processed("post", question, self.spec.post, self._post, passages)

    def _processed(
        self,
        phase: Phase,
        question: Question,
        specs: Sequence[StageSpec],
        stages: Sequence[PostProcessor],
        passages: list[Passage],
    ) -> list[Passage]:
        for spec, process in zip(specs, stages, strict=True):
            given = passages
            shown = tuple((p.chunk_id, p.text, round(p.score, 9)) for p in given)
            key = (phase, question.text, repr(spec), shown)
            passages = run_stage(
                phase,
                spec.use,
                partial(process, question.text, given),
                partial(list, given),
                memo=self._memo,
                key=key,
            )
        return passages


def fuse(lists: Sequence[Sequence[Passage]]) -> list[Passage]:
    """Rankings as one, with the fused scores; a span inside a better-ranked one adds nothing."""
    seen = {p.chunk_id: p for ranking in reversed(lists) for p in ranking}
    fused: list[Passage] = []
    for hit in rrf([[(p.chunk_id, p.score) for p in r] for r in lists]):
        new = replace(seen[hit.id], score=hit.score)
        if not any(
            p.doc_id == new.doc_id and p.start <= new.start and new.end <= p.end for p in fused
        ):
            fused.append(new)
    return fused


def closed_book(name: str, model: ChatModel, sampling: Sampling) -> Arm:
    """An arm that answers from the model's weights alone."""

    def answer(questions: Sequence[Question]) -> list[Answer]:
        return generate(name, model, sampling, questions, [None for _ in questions], None)

    return Arm(name, answer, retrieves=False)


def with_retrieval(
    name: str,
    model: ChatModel,
    sampling: Sampling,
    retrieval: Retrieval,
    gate: Gate | None = None,
) -> Arm:
    """An arm that answers from retrieved passages, or closed book where `gate` turns them away."""
    find: Finder = gated(retrieval, gate) if gate else retrieval

    def answer(questions: Sequence[Question]) -> list[Answer]:
        shown, timed = retrieve_all(find, questions)
        return generate(name, model, sampling, questions, shown, timed)

    return Arm(name, answer, retrieves=True)


def gated(retrieve: Callable[[Question], list[Passage]], gate: Gate) -> Finder:
    """Retrieval that ends with the gate, a step of the trace: None where it turns passages away."""

    def find(question: Question) -> list[Passage] | None:
        found, turned_away = retrieve(question), False

        def decide() -> list[Passage]:
            nonlocal turned_away
            turned_away = not gate(question, found)
            return [] if turned_away else found

        shown = run_stage("post", "fetch", decide, partial(list, found))
        return None if turned_away else shown

    return find


def retrieve_all(
    retrieval: Callable[[Question], Found], questions: Sequence[Question]
) -> tuple[list[Found], list[Retrieved]]:
    """Each question's passages, and what finding them took."""
    found, timed = [], []
    for question in questions:
        started = time.perf_counter()
        with record_calls() as calls, purpose("retrieve"), record_trace() as steps:
            found.append(retrieval(question))
        timed.append((time.perf_counter() - started, list(calls), tuple(steps)))
    return found, timed


def generate(
    name: str,
    model: ChatModel,
    sampling: Sampling,
    questions: Sequence[Question],
    passages: Sequence[Sequence[Passage] | None],
    retrieved: Sequence[Retrieved] | None,
) -> list[Answer]:
    """Ask the model, and put answers together with what retrieval took (None: there was none).

    `passages` holds what each prompt shows; None asks closed book.
    """
    chats = [
        prompts.closed_book(q) if shown is None else prompts.with_passages(q, shown)
        for q, shown in zip(questions, passages, strict=True)
    ]
    with record_calls(), purpose("answer"):
        generations = model.generate(chats, sampling)
    answers = []
    waited = sum(took[0] for took in retrieved or ())
    for i, (question, chat, made) in enumerate(zip(questions, chats, generations, strict=True)):
        seconds, calls, steps = retrieved[i] if retrieved is not None else (0.0, [], ())
        shown = tuple(passages[i] or ())
        spent = Call(
            model.name,
            "generate",
            "answer",
            made.usage.tokens_in,
            made.usage.tokens_out,
            made.latency_s,
        )
        answers.append(
            Answer(
                question_id=question.id,
                arm=name,
                text=made.text.strip(),
                prompt=chat,
                passages=shown,
                calls=(*calls, spent),
                latency_s=seconds + made.latency_s,
                tokens_in=made.usage.tokens_in,
                tokens_out=made.usage.tokens_out,
                failed=made.finish == "error",
                error=made.error,
                trace=steps,
                citations=cite(made.text.strip(), shown),
                first_token_s=None if made.first_token_s is None else waited + made.first_token_s,
                certainty=made.certainty,
            )
        )
    return answers
