"""Retrieval by the questions that a chunk answers, or by its single sentences."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import numpy as np

from domainlm.asking import Allowance, Task
from domainlm.corpus.chunking import sentence_spans
from domainlm.errors import ConfigError
from domainlm.models.base import Array
from domainlm.rag.citations import words
from domainlm.rag.derived import MAX_CALLS, TOKEN_CAP, Side, open_side
from domainlm.rag.derived_search import DerivedRetriever, Leaves, Lift, Method, Rows, document_turns
from domainlm.rag.pre import written_lines
from domainlm.rag.rocchio import evidence_spans
from domainlm.rag.stages import Resources, Retriever
from domainlm.schema import Chat, Chunk, Message, Sampling

Shot = tuple[str, str, str]
"""Document, passage and question of an example."""
_LONGEST = 300
"""Characters of a written question that are kept."""
_SHOWN = 1200
"""Characters of an example's passage that are shown."""
_BLOCK = 512
"""Questions whose own passage is looked for at once."""
_LABEL = re.compile(r"^(?:question|q)\s*\d*\s*[:.]\s*", re.IGNORECASE)


def questions(
    resources: Resources,
    *,
    n: int = 3,
    writer: Literal["model", "sentences"] = "model",
    shots: int = 3,
    round_trip: int = 3,
    weight: float = 0.5,
    method: Method = "convex",
    depth: int = 50,
    max_calls: int = MAX_CALLS,
    token_cap: int = TOKEN_CAP,
    max_tokens: int = 96,
) -> Retriever:
    """Search the questions that each chunk answers (doc2query, Nogueira et al., 1904.08375, with
    vectors), written once by the model; or, without a model, each chunk's single sentences.

    With train questions that name their evidence, `shots` of them set the style and each question
    is a sample of its own (Promptagator, Dai et al., 2209.11755); without, one call lists all. An
    example is never shown beside a chunk of its own document: the model would repeat it. A question
    to which its own chunk is not among the `round_trip` nearest says nothing of that chunk and is
    not searched (Promptagator's consistency filter).

    Args:
        resources: with a model, unless `writer` is `sentences`.
        n: most questions per chunk; of sentences, all are kept.
        writer: `model` or `sentences`.
        shots: most examples in the prompt.
        round_trip: place that a question's own chunk must reach; 0 searches every question.
        weight: share of the derived score in the dense one (`convex` only).
        method: `convex` or `rrf`.
        depth: candidates taken from each ranking.
        max_calls: most model calls, over all runs; chunks beyond them are found as they stand.
        token_cap: most tokens, read and written, over all runs.
        max_tokens: most tokens of an answer of the model.

    Raises:
        ConfigError: a setting is out of range, or a model is needed and none was given.
    """
    if writer not in ("model", "sentences"):
        raise ConfigError(f"stage 'questions': writer is {writer!r}; use model or sentences")
    if n < 1 or max_tokens < 1 or min(shots, round_trip) < 0:
        raise ConfigError(
            f"stage 'questions': n is {n}, shots {shots}, round_trip {round_trip}, max_tokens "
            f"{max_tokens}; n and max_tokens must be 1 or more, the others 0 or more"
        )
    allowance = Allowance(max_calls, token_cap)
    if writer == "sentences":
        side = open_side(resources, "sentences", ())
        return DerivedRetriever(
            resources,
            side,
            lambda leaves: [_sentence_tasks(leaves)],
            lambda leaves: _best_of(leaves, side),
            weight=weight,
            method=method,
            depth=depth,
            allowance=allowance,
        )
    examples = _shots(resources, 2 * shots)
    side = open_side(
        resources,
        "questions",
        (n, shots, examples, _task(n, few=bool(examples))),
        sampling=Sampling(max_tokens=max_tokens, temperature=0.7 if examples else 0.0),
        kind="query",
    )
    return DerivedRetriever(
        resources,
        side,
        lambda leaves: [_question_tasks(leaves, n, examples, shots)],
        lambda leaves: _best_of(leaves, side, round_trip),
        weight=weight,
        method=method,
        depth=depth,
        allowance=allowance,
    )


def _best_of(leaves: Leaves, side: Side, round_trip: int = 0) -> Lift | None:
    """A chunk's score is that of its best entry; see `questions` for `round_trip`."""
    found: list[Array] = []
    rows: list[int] = []
    for row, key in enumerate(leaves.keys):
        vectors = side.vectors(key)
        found.append(vectors)
        rows += [row] * len(vectors)
    if not rows:
        return None
    entries, owner = np.concatenate(found), np.asarray(rows, dtype=np.intp)
    if round_trip:
        places = own_places(entries, owner, leaves.vectors)
        entries, owner = entries[places <= round_trip], owner[places <= round_trip]
    if not len(owner):
        return None

    def lift(query: Array, own: Array) -> Array:
        best = own.copy()
        np.maximum.at(best, owner, entries @ query)
        best[np.isinf(own)] = -np.inf
        return best

    return lift


def own_places(entries: Array, owner: Rows, vectors: Array) -> Rows:
    """At which place, from 1, each of the q `entries` (q, d) finds the row of `vectors` (n, d) that
    `owner` says is its own, by cosine.
    """
    places = []
    for start in range(0, len(entries), _BLOCK):
        cosines = entries[start : start + _BLOCK] @ vectors.T
        own = cosines[np.arange(len(cosines)), owner[start : start + _BLOCK]]
        # Equal chunks share a cosine; rounding must not put one before the other.
        places.append(1 + (cosines > own[:, None] + 1e-6).sum(1))
    return np.concatenate(places)


def _sentence_tasks(leaves: Leaves) -> list[Task]:
    return [Task(leaves.keys[row], _sentences_of(leaves.chunks[row])) for row in _distinct(leaves)]


def _sentences_of(chunk: Chunk) -> Callable[[Sequence[str]], list[str]]:
    def read(written: Sequence[str]) -> list[str]:
        found = [chunk.text[a:b].strip() for a, b in sentence_spans(chunk.text)]
        kept = [text for text in found if words(text)]
        # The header says what a sentence is about; a lone sentence is its chunk.
        lead = f"{chunk.header}\n" if chunk.header else ""
        return [lead + text for text in kept] if len(kept) > 1 else []

    return read


def _question_tasks(leaves: Leaves, n: int, examples: Sequence[Shot], shots: int) -> list[Task]:
    tasks = []
    for row in _distinct(leaves):
        chunk = leaves.chunks[row]
        chats = _chats(chunk, n, [s for s in examples if s[0] != chunk.doc_id][:shots])
        tasks.append(Task(leaves.keys[row], _reader(chunk, n), partial(tuple, chats)))
    return tasks


def _reader(chunk: Chunk, n: int) -> Callable[[Sequence[str]], list[str]]:
    """Questions about the chunk: other lines, and questions that share no word with it, go."""
    about = words(chunk.indexed_text)

    def read(written: Sequence[str]) -> list[str]:
        found = []
        for text in written:
            lines = (_LABEL.sub("", line) for line in written_lines(text))
            asked = [line for line in lines if line.endswith("?")]
            # Few-shot samples go on to invent a next passage: only the first question is theirs.
            found += asked[: n if len(written) == 1 else 1]
        return [q[:_LONGEST] for q in found if words(q) & about][:n]

    return read


def _chats(chunk: Chunk, n: int, shots: Sequence[Shot]) -> list[Chat]:
    passage = Message("user", f"Passage: {chunk.indexed_text}")
    if not shots:
        return [(Message("system", _task(n, few=False)), passage)]
    turns = [
        turn
        for _, evidence, question in shots
        for turn in (Message("user", f"Passage: {evidence}"), Message("assistant", question))
    ]
    return [(Message("system", _task(n, few=True)), *turns, passage)] * n


def _task(n: int, *, few: bool) -> str:
    if few or n == 1:
        return "Write one short question that the passage answers."
    return f"Write {n} short questions that the passage answers, one on each line."


def _shots(resources: Resources, limit: int) -> tuple[Shot, ...]:
    """Train questions with evidence, of different documents, drawn by hash."""
    found: dict[str, Shot] = {}
    order = sorted(resources.examples, key=lambda q: hashlib.sha256(q.id.encode()).digest())
    for question in order:
        for doc_id in question.doc_ids:
            document = resources.documents.get(doc_id)
            if len(found) == limit or doc_id in found or document is None:
                continue
            if spans := evidence_spans(question, document):
                start, end = spans[0]
                found[doc_id] = doc_id, document.text[start:end][:_SHOWN], question.text
                break
    return tuple(found.values())


def _distinct(leaves: Leaves) -> list[int]:
    """One row per content, spread over the documents."""
    first: dict[str, int] = {}
    for row in document_turns(leaves.chunks):
        first.setdefault(leaves.keys[row], row)
    return list(first.values())
