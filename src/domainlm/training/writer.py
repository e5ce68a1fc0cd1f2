"""A question writer of one's own: the base model, tuned on the train questions to write more.

A row shows a sentence with the answer in brackets, and asks for the question. Tuned on some dozen
train questions, the writer asks about other facts as people do (answer-aware question generation,
Alberti et al., 1906.05416), where the untuned model of this size cannot; the answer is cut from
the document and cannot be wrong.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence

from domainlm.artifacts import Log
from domainlm.models.base import ChatModel, purpose
from domainlm.schema import Question, Sampling, TrainingRow
from domainlm.training.data import Synthesis, distinct
from domainlm.training.facts import Fact, question_about, subject_words
from domainlm.training.question_writer import prompt

EPOCHS = 3
"""Passes over the train questions, of which there are few."""
_TEMPERATURE = 0.7
_BATCH = 16
_MAX_CHARS = 300


def writer_rows(examples: Sequence[tuple[Question, Fact]]) -> tuple[TrainingRow, ...]:
    """Train questions as targets of the writer."""
    return tuple(
        TrainingRow(
            f"writer-{question.id}",
            prompt(fact),
            question.text,
            "gold",
            question.id,
            question.origin,
            (fact.doc_id,),
        )
        for question, fact in examples
    )


def write_about(
    facts: Sequence[Fact],
    examples: Sequence[Question],
    held_out: Sequence[Question],
    writer: ChatModel,
    *,
    samples: int,
    seed: int = 0,
    drafts: Log | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Synthesis:
    """Questions about facts, `samples` drawn for each and the unusable refused.

    Args:
        facts: of train documents only.
        examples: train questions; what repeats one of them is refused.
        held_out: dev and test questions; near-duplicates of them are refused.
        writer: tuned on `writer_rows`.
        samples: questions drawn for each fact.
        seed: of drawing.
        drafts: keeps every batch as it is written, as a list of texts; a killed run goes on there.
        progress: called with (facts done, facts in all).
    """
    counts: Counter[str] = Counter()
    kept: list[Question] = []
    earlier = drafts.read() if drafts else []
    for start in range(0, len(facts), _BATCH):
        group = facts[start : start + _BATCH]
        if earlier:
            texts = earlier.pop(0)
        else:
            chats = [prompt(fact) for fact in group for _ in range(samples)]
            with purpose("synthesis"):
                made = writer.generate(chats, Sampling(48, _TEMPERATURE, seed))
            texts = [m.text for m in made]
            if drafts:
                drafts.append([texts])
        for n, text in enumerate(texts):
            counts["written"] += 1
            fact, place = group[n // samples], f"{start + n // samples:05d}-{n % samples}"
            refusal = _refusal(text, fact)
            if refusal:
                counts[refusal] += 1
            else:
                kept.append(question_about(fact, f"fact-{place}", text))
        if progress:
            progress(min(start + _BATCH, len(facts)), len(facts))
    questions = distinct(kept, held_out, examples, counts)
    return Synthesis(questions, dict(sorted(counts.items())))


def _refusal(text: str, fact: Fact) -> str:
    if not text.endswith("?") or "\n" in text or len(text) > _MAX_CHARS:
        return "not one question"
    if re.search(rf"(?<!\w){re.escape(fact.answer.lower())}(?!\w)", text.lower()):
        return "question gives the answer away"
    # Asked of nothing in particular, the same question has an answer in every document.
    if not subject_words(text) & subject_words(fact.subject):
        return "question does not name its subject"
    return ""
