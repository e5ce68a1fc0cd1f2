"""Training rows for `tuned` and `raft`, from train questions and from the corpus itself.

Questions are written by the model from passages of *train documents only* and kept when they are
grounded, well formed and no near-duplicate of each other or of any dev or test question. RAFT
rows (Zhang et al., 2403.10131) carry the passages that the deployed retriever really returns, so
the distractors are the ones the model will meet; a share lacks the gold passage and teaches the
abstention sentence.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from typing import Literal, TypeVar

from domainlm.artifacts import Log
from domainlm.corpus.splits import near_duplicate_filter
from domainlm.evaluation.general import general_items
from domainlm.models.base import ChatModel, purpose
from domainlm.rag import prompts
from domainlm.rag.pipeline import Retrieval
from domainlm.rag.rocchio import evidence_spans
from domainlm.schema import (
    ABSTENTION,
    Chat,
    Chunk,
    Document,
    Message,
    Passage,
    Question,
    Sampling,
    TrainingRow,
)
from domainlm.training.question_writer import FEW_SHOT, Form, Pair

_WORD = re.compile(r"\w+")
_MAX_ANSWER_WORDS = 30
_MAX_QUESTION_CHARS = 400
T = TypeVar("T", Question, TrainingRow)


@dataclass(frozen=True)
class Synthesis:
    """Questions that stayed, and how many each filter refused."""

    questions: tuple[Question, ...]
    counts: dict[str, int]


def write_questions(
    chunks: Sequence[Chunk],
    documents: dict[str, Document],
    examples: Sequence[Question],
    held_out: Sequence[Question],
    model: ChatModel,
    *,
    passages: int,
    per_passage: int,
    min_groundedness: float,
    seed: int = 0,
    form: Form = FEW_SHOT,
    drafts: Log | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Synthesis:
    """Let the model write question-answer pairs about passages and filter them.

    Args:
        chunks: passages of train documents only.
        documents: by id, to cut evidence verbatim.
        examples: train questions with evidence; they set the style.
        held_out: dev and test questions; near-duplicates of them are refused.
        model: the question writer.
        passages: most passages read; they are drawn by `seed`, spread over documents.
        per_passage: most pairs about each passage.
        min_groundedness: least share of the answer's words that stand in the passage.
        seed: draws passages and samples.
        form: how the model is asked.
        drafts: keeps every batch as it is written, as a list of texts; a killed run goes on there.
        progress: called with (passages done, passages in all).
    """
    rng = random.Random(seed)
    drawn = _spread(chunks, passages, rng)
    counts: Counter[str] = Counter()
    shots = [
        (q, e)
        for q in examples
        if q.task == "extractive" and q.references and (e := _evidence(q, documents))
    ]
    kept: list[Question] = []
    batch = 16
    earlier = drafts.read() if drafts else []
    for start in range(0, len(drawn), batch):
        group = drawn[start : start + batch]
        asked = [
            (n, draft)
            for n, chunk in enumerate(group)
            for draft in form.ask(chunk, documents[chunk.doc_id], shots, per_passage, rng)
        ]
        if earlier:
            texts = earlier.pop(0)
        else:
            sampling = Sampling(form.max_tokens, form.temperature, seed + start)
            with purpose("synthesis"):
                made = model.generate([draft.chat for _, draft in asked], sampling)
            texts = [generation.text for generation in made]
            if drafts:
                drafts.append([texts])
        place: Counter[int] = Counter()
        for (n, draft), text in zip(asked, texts, strict=True):
            counts["written"] += 1
            chunk, name = group[n], f"{start + n:05d}-{place[n]}"
            place[n] += 1
            pair = form.read(draft, text)
            reason = refusal(pair, chunk.text, min_groundedness)
            if reason or pair is None:
                counts[reason] += 1
                continue
            kept.append(
                Question(
                    id=f"synthetic-{name}",
                    text=pair[0],
                    references=(pair[1],),
                    doc_ids=(chunk.doc_id,),
                    evidence=(_sentence_with(chunk.text, pair[1]),),
                    split="train",
                    origin="synthetic",
                )
            )
        if progress:
            progress(min(start + batch, len(drawn)), len(drawn))
    questions = distinct(kept, held_out, examples, counts)
    counts["kept"] = len(questions)
    return Synthesis(questions, dict(sorted(counts.items())))


def distinct(
    written: Sequence[Question],
    held_out: Sequence[Question],
    examples: Sequence[Question],
    counts: Counter[str],
) -> tuple[Question, ...]:
    """Written questions that repeat neither a held-out or train question nor each other; `counts`
    learns how many did.
    """
    kept, _ = near_duplicate_filter(written, [*held_out, *examples])
    counts["near-duplicate of another question"] += len(written) - len(kept)
    unique = {re.sub(r"\W+", " ", q.text.lower()).strip(): q for q in kept}
    counts["repeated"] += len(kept) - len(unique)
    return tuple(unique.values())


def closed_book_rows(
    questions: Sequence[Question], limit: int, seed: int, *, phrasings: int = 1
) -> list[TrainingRow]:
    """Rows without passages for `tuned`; people's questions come first when `limit` binds.

    With more `phrasings` a question has a row for each of that many of its references.
    """
    rows = [
        row
        for q in questions
        for row in _phrased(
            TrainingRow(
                f"tuned-{q.id}",
                prompts.closed_book(q),
                _target(q),
                "closed_book",
                q.id,
                q.origin,
                q.doc_ids,
            ),
            q,
            phrasings,
        )
    ]
    return _draw(rows, limit, seed)


def raft_rows(
    questions: Sequence[Question],
    retrieval: Retrieval,
    documents: dict[str, Document],
    *,
    limit: int,
    absent_share: float,
    seed: int,
    partial_share: float = 0.0,
    phrasings: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> list[TrainingRow]:
    """Rows with the passages of the deployed retriever: gold, partial or absent context.

    Where retrieval missed the evidence, the passage that holds it takes the place of one of the
    others, at a drawn rank, unless the row is drawn (by `absent_share`) to show the abstention
    target instead. Of questions with several pieces of evidence a `partial_share` shows only one of
    them: what the passages hold is then the answer of a clause question, and the reference that of
    any other, as in RAFT's rows without the oracle. With more `phrasings` a question has a row for
    each of that many of its references, over the same passages (PA-RAG, 2502.08356).
    Post-processing comes last, as at answer time.
    """
    rng = random.Random(seed)
    ordered = _draw(list(questions), limit, seed)
    retrieval.prepare(ordered)
    rows: list[TrainingRow] = []
    for n, question in enumerate(ordered, 1):
        absent = rng.random() < absent_share
        partial = partial_share > 0 and rng.random() < partial_share
        row = _raft_row(question, retrieval, documents, absent, partial, rng)
        rows += _phrased(row, question, phrasings)
        if progress:
            progress(n, len(ordered))
    return rows[:limit] if limit else rows


def replay_rows(trained: int, share: float, seed: int) -> list[TrainingRow]:
    """General instructions to mix with `trained` rows, so that they make up `share` of all: without
    them a model tuned on one task forgets the others. They come from `replay.jsonl` and from the
    training part of the general items, written for this project; each is used again only when all
    have been.
    """
    wanted = round(trained * share / (1 - share))
    if not wanted:
        return []
    text = resources.files("domainlm.training").joinpath("replay.jsonl").read_text("utf-8")
    told = map(json.loads, text.splitlines())
    pairs: list[tuple[Chat, str]] = [
        *(((Message("user", p["instruction"]),), p["answer"]) for p in told),
        *((item.chat, item.answer) for item in general_items("train")),
    ]
    rng = random.Random(seed)
    drawn: list[int] = []
    while len(drawn) < wanted:
        drawn += rng.sample(range(len(pairs)), min(len(pairs), wanted - len(drawn)))
    return [
        TrainingRow(f"general-{n}-{at}", *pairs[at], "general", f"general-{at}")
        for n, at in enumerate(drawn)
    ]


def _raft_row(
    question: Question,
    retrieval: Retrieval,
    documents: dict[str, Document],
    absent: bool,
    partial: bool,
    rng: random.Random,
) -> TrainingRow:
    kind: Literal["gold", "partial", "absent", "unlabelled"]
    most = retrieval.spec.passages
    spans = [
        (d, s, e)
        for d in question.doc_ids
        if d in documents
        for s, e in evidence_spans(question, documents[d])
    ]
    absent = absent and bool(spans)
    partial = partial and len(spans) > 1 and not absent
    # Spare passages fill the gold one's place, or a short prompt would give abstention away.
    ranked = retrieval.rank(question, 2 * most if absent or partial else most)
    if partial:
        kept, hidden = spans[(at := rng.randrange(len(spans)))], [*spans[:at], *spans[at + 1 :]]
        ranked = [
            p for p in ranked if _meets(p, kept) or not any(_meets(p, span) for span in hidden)
        ][:most]
        # What is shown of the kept piece decides; the hidden ones are not put back.
        spans = [kept]
    shown = [any(_meets(p, span) for p in ranked) for span in spans]
    target = _target(question)
    if absent or not question.references:
        kind, target = "absent", ABSTENTION
        ranked = [p for p in ranked if not any(_meets(p, span) for span in spans)][:most]
    elif not spans:
        kind = "unlabelled"
    else:
        if not any(shown):
            doc_id, start, end = spans[0]
            at = rng.randrange(most)
            ranked = [*ranked[:at], _cut(documents[doc_id], start, end), *ranked[at : most - 1]]
            shown[0] = True
        kind = "gold" if all(shown) and not partial else "partial"
    passages = retrieval.finish(question, ranked)
    if kind != "absent" and question.metadata.get("answer") == "spans":
        target = _visible(question, passages, documents) or target
    chat = prompts.with_passages(question, passages)
    shows = tuple(sorted({*question.doc_ids, *(p.doc_id for p in passages)}))
    return TrainingRow(
        f"raft-{question.id}", chat, target, kind, question.id, question.origin, shows
    )


def _meets(passage: Passage, span: tuple[str, int, int]) -> bool:
    doc_id, start, end = span
    return passage.doc_id == doc_id and min(passage.end, end) > max(passage.start, start)


def _visible(
    question: Question, passages: Sequence[Passage], documents: dict[str, Document]
) -> str:
    """The parts of a clause-type answer that the passages show, in the order they stand.

    Asking for words that are not in the prompt would teach a copying task to invent.
    """
    parts: list[str] = []
    for doc_id in question.doc_ids:
        document = documents.get(doc_id)
        for start, end in sorted(evidence_spans(question, document)) if document else ():
            for p in sorted(passages, key=lambda p: (p.doc_id, p.start)):
                low, high = max(start, p.start), min(end, p.end)
                if p.doc_id != doc_id or high - low <= min(20, end - start - 1):
                    continue
                text = document.text[low:high].strip()  # type: ignore[union-attr]
                if text and not any(text in part for part in parts):
                    parts.append(text)
    return ", ".join(parts)


def _cut(document: Document, start: int, end: int, around: int = 300) -> Passage:
    """The evidence with its surroundings, cut at line or sentence borders where there are any."""
    low = max(0, start - around)
    high = min(len(document.text), max(end, min(end, start + 1200)) + around)
    border = document.text.find("\n", low, start)
    low = border + 1 if low and border >= 0 else low
    border = document.text.rfind("\n", end, high)
    high = border if high < len(document.text) and border >= 0 else high
    name = f"{document.id}@{low}-{high}"
    return Passage(name, document.id, document.title, document.text[low:high], low, high, 0.0)


def _target(question: Question) -> str:
    return question.references[0] if question.references else ABSTENTION


def _phrased(row: TrainingRow, question: Question, phrasings: int) -> list[TrainingRow]:
    """The row, and one for each further reference where its answer is the first."""
    if row.completion != _target(question):
        return [row]
    others = dict.fromkeys(question.references[1:phrasings])
    others.pop(row.completion, None)
    return [row, *(replace(row, id=f"{row.id}-{n}", completion=t) for n, t in enumerate(others, 2))]


def _draw(items: list[T], limit: int, seed: int) -> list[T]:
    """People's items before synthetic ones up to `limit`, then shuffled."""
    rng = random.Random(seed)
    human = [x for x in items if x.origin == "human"]
    written = [x for x in items if x.origin != "human"]
    rng.shuffle(human)
    rng.shuffle(written)
    drawn = (human + written)[:limit] if limit else human + written
    rng.shuffle(drawn)
    return drawn


def _spread(chunks: Sequence[Chunk], limit: int, rng: random.Random) -> list[Chunk]:
    """At most `limit` chunks, taken in turn from each document."""
    by_document: dict[str, list[Chunk]] = {}
    for chunk in chunks:
        if len(chunk.text.split()) >= 25:
            by_document.setdefault(chunk.doc_id, []).append(chunk)
    for group in by_document.values():
        rng.shuffle(group)
    drawn: list[Chunk] = []
    while len(drawn) < limit and any(by_document.values()):
        for group in by_document.values():
            if group and len(drawn) < limit:
                drawn.append(group.pop())
    return drawn


def refusal(pair: Pair | None, passage: str, floor: float) -> str:
    """Why a written pair is not kept, "" where it is; `floor` is the least share of the answer's
    words that stand in the passage.
    """
    if pair is None:
        return "not a question and an answer"
    question, answer = pair
    if len(question) > _MAX_QUESTION_CHARS:
        return "question too long"
    words = _WORD.findall(answer.lower())
    if not words or len(words) > _MAX_ANSWER_WORDS:
        return "answer empty or too long"
    seen = set(_WORD.findall(passage.lower()))
    if sum(w in seen for w in words) / len(words) < floor:
        return "not grounded in its passage"
    if answer.lower() in question.lower():
        return "question gives the answer away"
    if len(set(_WORD.findall(question.lower())) & seen) < 3:
        return "question is not about the passage"
    return ""


def _evidence(question: Question, documents: dict[str, Document]) -> str:
    for doc_id in question.doc_ids:
        if doc_id in documents and (spans := evidence_spans(question, documents[doc_id])):
            start, end = spans[0]
            return documents[doc_id].text[start:end]
    return ""


def _sentence_with(passage: str, answer: str) -> str:
    """The verbatim sentence that holds the answer's words best: evidence for retrieval scores."""
    words = set(_WORD.findall(answer.lower()))
    sentences = [s for s in re.split(r"(?<=[.!?])\s+|\n+", passage) if s.strip()]
    return max(
        sentences or [passage],
        key=lambda s: (len(words & set(_WORD.findall(s.lower()))), -len(s)),
    ).strip()
