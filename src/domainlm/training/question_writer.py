"""Question writers for passages: how each is asked, and how its text is read.

A model of the embedded one's size, shown a few examples and a passage, seldom writes a question and
its answer. An adapter of `benchmarks/train_question_writer.py`, trained on people's questions about
passages of public sets, is asked less: the passage's facts are found without a model, and it is
shown one sentence, the answer in brackets, and what the document is about (answer-aware generation,
Alberti et al., 1906.05416).
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from domainlm.errors import ModelError
from domainlm.schema import Chat, Chunk, Document, Message, Question
from domainlm.training.facts import Fact, facts_of, subject_of

Pair = tuple[str, str]
"""A question and its answer."""
Shot = tuple[Question, str]
"""A train question and its evidence."""
SYSTEM = "Write the question that the words in [brackets] answer."
FILES = ("adapter_config.json", "adapter_model.safetensors")


@dataclass(frozen=True, slots=True)
class Draft:
    """What a writer is shown; the answer, where it is given."""

    chat: Chat
    answer: str = ""


@dataclass(frozen=True, slots=True)
class Form:
    """How a writer is asked for at most so many pairs about a passage, and how each completion is
    read (None: no pair).
    """

    ask: Callable[[Chunk, Document, Sequence[Shot], int, random.Random], list[Draft]]
    read: Callable[[Draft, str], Pair | None]
    max_tokens: int
    temperature: float


def prompt(fact: Fact) -> Chat:
    """What a writer tuned to ask about facts is shown."""
    shown = f"{fact.subject}\n{fact.shown('[', fact.answer, ']')}"
    return (Message("system", SYSTEM), Message("user", shown.strip()))


def few_shot(most: int = 3) -> Form:
    """A model as it is, shown up to so many train questions that set the style (Promptagator,
    2209.11755).
    """

    def ask(
        chunk: Chunk, _: Document, shots: Sequence[Shot], wanted: int, rng: random.Random
    ) -> list[Draft]:
        drawn = [rng.sample(shots, min(most, len(shots))) for _ in range(wanted)]
        return [Draft(_example_prompt(chunk, own)) for own in drawn]

    return Form(ask, _first_pair, max_tokens=64, temperature=0.7)


def _example_prompt(chunk: Chunk, shots: Sequence[Shot]) -> Chat:
    system = "Write one short question that the passage answers, and its exact answer."
    messages = [Message("system", system)]
    for question, evidence in shots:
        messages.append(Message("user", f"Passage: {evidence}"))
        messages.append(
            Message("assistant", f"Question: {question.text}\nAnswer: {question.references[0]}")
        )
    title = f"{chunk.title}. " if chunk.title else ""
    messages.append(Message("user", f"Passage: {title}{chunk.text}"))
    return tuple(messages)


def _first_pair(_: Draft, text: str) -> Pair | None:
    match = re.search(r"Question:\s*(.+?\?)\s*\n+\s*Answer:\s*(.+)", text)
    return (match[1].strip(), match[2].strip().rstrip(".")) if match else None


def _ask_about_facts(
    chunk: Chunk, document: Document, _: Sequence[Shot], wanted: int, rng: random.Random
) -> list[Draft]:
    """Facts of different sentences before several of one."""
    facts = facts_of([replace(document, text=chunk.text)])
    rng.shuffle(facts)
    met: dict[str, int] = {}
    turns = []
    for fact in facts:
        met[fact.sentence] = met.get(fact.sentence, 0) + 1
        turns.append((met[fact.sentence], fact))
    chosen = [fact for _, fact in sorted(turns, key=lambda t: t[0])][:wanted]
    subject = subject_of(document)
    return [Draft(prompt(replace(fact, subject=subject)), fact.answer) for fact in chosen]


def _one_question(draft: Draft, text: str) -> Pair | None:
    whole = text.endswith("?") and "\n" not in text
    return (text, draft.answer) if whole else None


FEW_SHOT = few_shot()
TUNED = Form(_ask_about_facts, _one_question, max_tokens=48, temperature=0.0)
"""Learned from many people's questions, so that a user's few ones are not shown."""


def form_of(adapter: Path | None) -> Form:
    """How a model with this adapter is asked."""
    return TUNED if adapter else FEW_SHOT


def adapter_of(writer: str | Path) -> Path | None:
    """The adapter that `training.synthesis.writer` names; none for `plain`."""
    return None if writer == "plain" else Path(writer)


def digest_of(adapter: Path | None) -> str:
    """What identifies a writer: questions of two digests are not the same questions. "" for none.

    Raises:
        ModelError: the folder holds no adapter.
    """
    if adapter is None:
        return ""
    total = hashlib.sha256()
    for name in FILES:
        try:
            total.update((adapter / name).read_bytes())
        except OSError as error:
            raise ModelError(
                f"the question writer {adapter} has no readable {name} ({error.strerror}); give "
                "training.synthesis.writer a folder that benchmarks/train_question_writer.py "
                "wrote, or set it to plain"
            ) from None
    return total.hexdigest()[:16]
