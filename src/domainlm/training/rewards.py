"""Verifiable rewards for GRPO: pure functions of an answer and what is known of its question.

Nothing here asks a model, so nothing here can be flattered: an answer is compared with references,
with the passages it should stand on, and with whether there was an answer at all.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from domainlm.config.training import RewardConfig
from domainlm.evaluation.abstention import is_abstention
from domainlm.evaluation.metrics import token_f1
from domainlm.rag import prompts
from domainlm.rag.citations import cite
from domainlm.rag.pipeline import Retrieval
from domainlm.schema import Question, RewardRow

Reward = Callable[[str, RewardRow], float]


def answer(text: str, row: RewardRow) -> float:
    """Token F1 with the best reference (1 for an exact match); 0 where there is no answer or the
    model abstains.
    """
    if not row.answerable or is_abstention(text):
        return 0.0
    return token_f1(text, row.references)


def support(text: str, row: RewardRow) -> float:
    """Mean support of the answer's sentences by the passages, in [0, 1]; 0 for an abstention or
    without passages, so that silence does not pay.
    """
    citations = cite(text, row.passages)
    return sum(c.support for c in citations) / len(citations) if citations else 0.0


def abstention(text: str, row: RewardRow) -> float:
    """1 for abstaining where there is no answer, -1 for answering there or for abstaining where
    there is one, else 0.
    """
    silent = is_abstention(text)
    if row.answerable:
        return -1.0 if silent else 0.0
    return 1.0 if silent else -1.0


def reward_rows(
    questions: Sequence[Question], retrieval: Retrieval | None, *, limit: int, seed: int
) -> tuple[RewardRow, ...]:
    """At most `limit` questions drawn by `seed`, prompted as the arm will be: with what `retrieval`
    finds, or closed book without one.
    """
    order = list(range(len(questions)))
    random.Random(seed).shuffle(order)
    drawn = [questions[n] for n in order[:limit]]
    if retrieval:
        retrieval.prepare(drawn)
    rows = []
    for question in drawn:
        found = tuple(retrieval(question)) if retrieval else ()
        chat = (
            prompts.with_passages(question, found) if retrieval else prompts.closed_book(question)
        )
        shows = tuple(sorted({*question.doc_ids, *(p.doc_id for p in found)}))
        answerable = bool(question.references)
        rows.append(RewardRow(chat, question.references, question.id, found, answerable, shows))
    return tuple(rows)


def weighted(config: RewardConfig) -> list[tuple[Reward, float]]:
    """The rewards that count, with their weights."""
    every: list[tuple[Reward, float]] = [
        (answer, config.answer),
        (support, config.support),
        (abstention, config.abstention),
    ]
    return [(reward, weight) for reward, weight in every if weight > 0]
