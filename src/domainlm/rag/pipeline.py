"""Question -> passages -> prompt -> answer, for every arm alike.

`Retrieval` runs a `RagSpec`; `answer_with` turns any prompt builder and model into an arm. All
model calls of an answer, retrieval included, are in its `calls`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from domainlm.fusion import rrf
from domainlm.models.base import ChatModel, purpose, record_calls
from domainlm.rag import prompts
from domainlm.rag.stages import PostProcessor, QueryTransform, Resources, Retriever, build_stage
from domainlm.schema import Answer, Call, Passage, Question, RagSpec, Sampling

Answerer = Callable[[Sequence[Question]], list[Answer]]


@dataclass(frozen=True)
class Arm:
    """One contender: a name and a function from questions to answers."""

    name: str
    answer: Answerer
    retrieves: bool


class Retrieval:
    """The retrieval half of a pipeline: transforms, retrievers fused by RRF, post-processors."""

    def __init__(self, spec: RagSpec, resources: Resources) -> None:
        """Build every stage of `spec`.

        Raises:
            ConfigError: a stage or a setting is unknown.
        """
        self.spec = spec
        self._resources = resources
        self._pre: list[QueryTransform] = [build_stage("pre", s, resources) for s in spec.pre]
        self._retrievers: list[Retriever] = [
            build_stage("retrieve", s, resources) for s in spec.retrieve
        ]
        self._post: list[PostProcessor] = [build_stage("post", s, resources) for s in spec.post]

    def prepare(self, questions: Sequence[Question]) -> None:
        """Embed the questions in one batch, so that single lookups hit the cache."""
        self._resources.index.embed_queries([q.text for q in questions])

    def __call__(self, question: Question, k: int | None = None) -> list[Passage]:
        """The `k` best passages (default: as many as the prompt takes)."""
        return self.finish(question, self.rank(question, k or self.spec.passages))

    def rank(self, question: Question, k: int) -> list[Passage]:
        """The `k` best passages before any post-processing."""
        queries = [question.text]
        for transform in self._pre:
            queries = transform(queries)
        lists = [r(q, k, question.scope) for r in self._retrievers for q in queries]
        return lists[0] if len(lists) == 1 else _fuse(lists)[:k]

    def finish(self, question: Question, passages: list[Passage]) -> list[Passage]:
        """Post-process ranked passages."""
        for process in self._post:
            passages = process(question.text, passages)
        return passages


def _fuse(lists: Sequence[Sequence[Passage]]) -> list[Passage]:
    seen = {p.chunk_id: p for ranking in reversed(lists) for p in ranking}
    return [seen[hit.id] for hit in rrf([[(p.chunk_id, p.score) for p in r] for r in lists])]


def closed_book(name: str, model: ChatModel, sampling: Sampling) -> Arm:
    """An arm that answers from the model's weights alone."""

    def answer(questions: Sequence[Question]) -> list[Answer]:
        return _generate(name, model, sampling, questions, [[] for _ in questions], None)

    return Arm(name, answer, retrieves=False)


def with_retrieval(name: str, model: ChatModel, sampling: Sampling, retrieval: Retrieval) -> Arm:
    """An arm that answers from retrieved passages."""

    def answer(questions: Sequence[Question]) -> list[Answer]:
        found, timed = [], []
        for question in questions:
            started = time.perf_counter()
            with record_calls() as calls, purpose("retrieve"):
                found.append(retrieval(question))
            timed.append((time.perf_counter() - started, list(calls)))
        return _generate(name, model, sampling, questions, found, timed)

    return Arm(name, answer, retrieves=True)


def _generate(
    name: str,
    model: ChatModel,
    sampling: Sampling,
    questions: Sequence[Question],
    passages: Sequence[Sequence[Passage]],
    retrieved: Sequence[tuple[float, list[Call]]] | None,
) -> list[Answer]:
    chats = [
        prompts.closed_book(q) if retrieved is None else prompts.with_passages(q, found)
        for q, found in zip(questions, passages, strict=True)
    ]
    with record_calls(), purpose("answer"):
        generations = model.generate(chats, sampling)
    answers = []
    for i, (question, chat, made) in enumerate(zip(questions, chats, generations, strict=True)):
        seconds, calls = retrieved[i] if retrieved is not None else (0.0, [])
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
                passages=tuple(passages[i]),
                calls=(*calls, spent),
                latency_s=seconds + made.latency_s,
                tokens_in=made.usage.tokens_in,
                tokens_out=made.usage.tokens_out,
                failed=made.finish == "error",
                error=made.error,
            )
        )
    return answers
