"""What the report's question browser embeds: every question with every arm's answer, size-capped.

Passages and prompts are stored once and referred to by number, since arms share them. Data that
does not fit as it is gets packed (gzip, which browsers unpack by themselves). Where even that is
too large, the longest prompts and passages are cut first; what was left out is said, and
`result.json` keeps everything.
"""

import base64
import functools
import gzip
import json
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from domainlm.corpus.quotes import plain_marks
from domainlm.diagnose import MEANING, removable
from domainlm.report.format import METRIC_NAMES, diagnose_command
from domainlm.schema import Answer, Loss, Passage, Question, RunResult, Score

SHORTEST_CUT = 240
"""Prompts and passages keep at least this many characters before questions are left out."""
MAX_QUESTIONS = 2_000
_EDGE = 24
"""Shared characters from which a piece of evidence at a passage's edge counts, by exact match."""
_SPACE = re.compile(r"\s+")
_UNEVEN = re.compile(r"\s\s|[^\S ]")


@dataclass(frozen=True, slots=True)
class Block:
    """The text of a data block, its type, and notes on what was left out.

    JSON has no `<` (so no tag or comment can begin in it), U+2028 or U+2029; packed data is base64.
    """

    text: str
    kind: str
    notes: tuple[str, ...]


JSON, PACKED = "application/json", "application/gzip"


def embed(result: RunResult, arms: Mapping[str, int], budget: int) -> Block:
    """The question browser's data in at most `budget` bytes.

    Args:
        result: The run.
        arms: Arm -> colour slot, in the order to show.
        budget: Most bytes of the block.
    """
    questions = _answered(result)
    kept = _select(result, questions, MAX_QUESTIONS)
    while True:
        data = _payload(result, kept, arms)
        text = to_json(data)
        if len(text.encode()) <= budget or not kept:
            return Block(text, JSON, _notes(len(questions), len(kept), None))
        packed = pack(text)
        if len(packed) <= budget:
            return Block(packed, PACKED, _notes(len(questions), len(kept), None))
        longest = max((len(t) for t in _long_texts(data)), default=0)
        cut = _largest_cut(data, budget, min(longest, budget))
        if cut is not None:
            packed = pack(to_json(_shortened(data, cut)))
            return Block(packed, PACKED, _notes(len(questions), len(kept), cut))
        least = len(pack(to_json(_shortened(data, SHORTEST_CUT))))
        kept = _select(result, kept, min(len(kept) - 1, len(kept) * budget // least))


def pack(text: str) -> str:
    """Text as base64 of its gzip, the same for the same text."""
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def to_json(value: Any) -> str:
    """JSON that cannot end or open anything in HTML; lone surrogates become U+FFFD."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    text = text.encode("utf-8", "replace").decode("utf-8")
    # `<\/` alone would leave `<!--<script>`, which swallows the closing tag.
    for char in "<\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def evidence_ranges(text: str, evidence: Sequence[str]) -> list[list[int]]:
    """Half-open ranges of a passage that gold evidence covers, merged; blanks and marks may differ.

    An evidence that runs over the passage's edge counts by the part that is inside.
    """
    plain, origin = _squeezed(plain_marks(text))
    found = []
    for item in evidence:
        wanted = _SPACE.sub(" ", plain_marks(item)).strip()
        if not wanted or not plain:
            continue
        at = plain.find(wanted)
        if at >= 0:
            found.append((at, at + len(wanted)))
        elif plain.strip() in wanted:
            found.append((0, len(plain)))
        else:
            found += _edges(plain, wanted)
    merged: list[list[int]] = []
    for start, end in sorted((origin[a], origin[b - 1] + 1) for a, b in found if b > a):
        if merged and start <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], end)
        else:
            merged.append([start, end])
    return merged


@functools.lru_cache(maxsize=64)  # arms share their passages
def _squeezed(text: str) -> tuple[str, list[int]]:
    """The text with runs of blanks as one space, and each character's place in the original."""
    if not _UNEVEN.search(text):
        return text, list(range(len(text)))
    chars: list[str] = []
    origin: list[int] = []
    for i, char in enumerate(text):
        space = char.isspace()
        if not (space and chars and chars[-1] == " "):
            chars.append(" " if space else char)
            origin.append(i)
    return "".join(chars), origin


def _edges(plain: str, wanted: str) -> list[tuple[int, int]]:
    """Evidence cut off by the passage's end or begun before its start, from `_EDGE` characters."""
    found = []
    head, tail = wanted[:_EDGE], wanted[-_EDGE:]
    at = plain.find(head) if len(head) == _EDGE else -1
    while at >= 0:
        if wanted.startswith(plain[at:].rstrip()):
            found.append((at, len(plain)))
            break
        at = plain.find(head, at + 1)
    at = plain.rfind(tail) if len(tail) == _EDGE else -1
    while at >= 0:
        if wanted.endswith(plain[: at + _EDGE].lstrip()):
            found.append((0, at + _EDGE))
            break
        at = plain.rfind(tail, 0, at + _EDGE - 1)
    return found


def _answered(result: RunResult) -> list[Question]:
    answered = {a.question_id for a in result.answers}
    return [q for q in result.questions if q.id in answered]


def _select(result: RunResult, questions: Sequence[Question], n: int) -> list[Question]:
    """At most `n` questions in their order, those on which arms disagree before the others."""
    if n >= len(questions):
        return list(questions)
    outcomes: dict[str, set[str]] = {}
    for score in result.scores:
        outcomes.setdefault(score.question_id, set()).add(score.outcome)
    ranked = sorted(questions, key=lambda q: len(outcomes.get(q.id, ())) < 2)
    chosen = {q.id for q in ranked[:n]}
    return [q for q in questions if q.id in chosen]


class _Store:
    """Values kept once, referred to by number."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._numbers: dict[Any, int] = {}

    def add(self, key: Any, value: Any) -> int:
        """The number of `key`, storing `value` the first time."""
        if key not in self._numbers:
            self._numbers[key] = len(self.values)
            self.values.append(value)
        return self._numbers[key]


def _payload(
    result: RunResult, questions: Sequence[Question], arms: Mapping[str, int]
) -> dict[str, Any]:
    texts, passages = _Store(), _Store()
    scores = {(s.question_id, s.arm): s for s in result.scores}
    answers: dict[str, dict[str, Answer]] = {}
    for answer in result.answers:
        answers.setdefault(answer.question_id, {})[answer.arm] = answer
    lost = {(loss.question_id, loss.arm): loss for w in result.waterfalls for loss in w.losses}
    records = []
    for q in questions:
        found = [
            _answer(answers[q.id][arm], q, scores.get((q.id, arm)), texts, passages)
            | _lost(lost.get((q.id, arm)))
            for arm in arms
            if arm in answers[q.id]
        ]
        records.append(
            {
                "id": q.id,
                "text": q.text,
                "task": q.task,
                "split": q.split,
                "origin": q.origin,
                "refs": list(q.references),
                "docs": list(q.doc_ids),
                "evidence": list(q.evidence),
                "choices": list(q.choices),
                "scope": list(q.scope),
                "answers": found,
            }
        )
    return {
        "arms": [{"name": name, "slot": slot} for name, slot in arms.items()],
        "names": METRIC_NAMES,
        "meanings": MEANING,
        "diagnose": diagnose_command(result),
        "stages": [shlex.quote(name) for name in removable(result.rag)],
        "texts": texts.values,
        "passages": passages.values,
        "questions": records,
    }


def _answer(
    answer: Answer, question: Question, score: Score | None, texts: _Store, passages: _Store
) -> dict[str, Any]:
    record: dict[str, Any] = {
        "arm": answer.arm,
        "text": answer.text,
        "outcome": score.outcome if score else "failed" if answer.failed else "unscored",
        "metrics": {k: _finite(v) for k, v in score.metrics.items()} if score else {},
        "latency": _finite(answer.latency_s),
        "in": answer.tokens_in,
        "out": answer.tokens_out,
        "prompt": [
            [m.role, texts.add(m.content, _parts(m.content, answer.passages, passages))]
            for m in answer.prompt
        ],
        "calls": [
            [c.model, c.kind, c.purpose, c.tokens_in, c.tokens_out, _finite(c.latency_s)]
            for c in answer.calls
        ],
        "passages": [
            [_passage(p, passages), _finite(p.score), _highlights(p, question)]
            for p in answer.passages
        ],
    }
    if answer.citations:
        record["cites"] = [
            [answer.text[c.start : c.end], c.doc_id, c.source_start, c.source_end, c.support]
            for c in answer.citations
        ]
    if answer.trace:
        record["trace"] = [
            [t.phase, t.stage, _finite(t.seconds), list(t.queries), len(t.chunks), t.fallback]
            for t in answer.trace
        ]
    if answer.error:
        record["error"] = answer.error
    if answer.withheld:
        record["withheld"] = answer.withheld
    return record


def _parts(text: str, shown: Sequence[Passage], passages: _Store) -> list[str | int]:
    """A prompt with the passages in it as their numbers, since they are stored anyway."""
    parts: list[str | int] = []
    rest = text
    for p in shown:
        before, found, after = rest.partition(p.text)
        if not found or not p.text:
            continue
        parts += [before, _passage(p, passages)]
        rest = after
    return [*parts, rest]


def _lost(loss: Loss | None) -> dict[str, Any]:
    if loss is None:
        return {}
    id_ = loss.question_id
    # What a terminal could take for a command of its own is not offered for pasting.
    quoted = (
        f"{'-- ' if id_.startswith('-') else ''}{shlex.quote(id_)}" if id_.isprintable() else ""
    )
    return {"lost": [loss.step, list(loss.held), f"--arm {shlex.quote(loss.arm)}", quoted]}


def _passage(p: Passage, passages: _Store) -> int:
    record = {
        "doc": p.doc_id,
        "title": p.title,
        "anchor": p.anchor,
        "start": p.start,
        "end": p.end,
        "text": p.text,
    }
    return passages.add((p.chunk_id, p.start, p.end, p.text), record)


def _highlights(p: Passage, question: Question) -> list[list[int]]:
    # Boilerplate repeats across documents: the same words elsewhere are not the evidence.
    if question.doc_ids and p.doc_id not in question.doc_ids:
        return []
    return evidence_ranges(p.text, question.evidence)


def _finite(value: float) -> float | None:
    return round(value, 4) if math.isfinite(value) else None


def _long_texts(data: dict[str, Any]) -> list[str]:
    parts = [part for text in data["texts"] for part in text if isinstance(part, str)]
    return [*parts, *(p["text"] for p in data["passages"])]


def _largest_cut(data: dict[str, Any], budget: int, longest: int) -> int | None:
    """The largest length at which everything fits, or None."""

    def fits(cut: int) -> bool:
        return len(pack(to_json(_shortened(data, cut)))) <= budget

    low, high = SHORTEST_CUT, longest
    if not fits(low):
        return None
    while high - low > max(32, low // 50):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _shortened(data: dict[str, Any], cut: int) -> dict[str, Any]:
    return {
        **data,
        "texts": [
            [_clip(part, cut) if isinstance(part, str) else part for part in text]
            for text in data["texts"]
        ],
        "passages": [{**p, "text": _clip(p["text"], cut)} for p in data["passages"]],
    }


def _clip(text: str, cut: int) -> str:
    return text if len(text) <= cut else text[:cut] + "…"


def _notes(total: int, kept: int, cut: int | None) -> tuple[str, ...]:
    notes = []
    if cut is not None:
        notes.append(
            f"To keep this file small, prompts and passages are cut after {cut:,} characters here."
        )
    if kept < total:
        notes.append(
            f"To keep this file small, {kept:,} of {total:,} questions are shown here, those on "
            "which arms disagree first."
        )
    return (*notes, "result.json beside this file holds everything.") if notes else ()
