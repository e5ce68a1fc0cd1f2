"""An answer as a page shows it: its sentences with their sources, numbered as they come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from domainlm.schema import Answer, Citation, Passage


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of an answer. `source` is the number of what supports it, 0 without any."""

    text: str
    source: int = 0
    href: str = ""
    label: str = ""
    unsupported: bool = False


@dataclass(frozen=True, slots=True)
class Source:
    """A cited or read span of a document, and where a click leads."""

    number: int
    doc_id: str
    title: str
    anchor: str
    href: str
    text: str = ""
    score: float = 0.0


@dataclass(frozen=True, slots=True)
class AnswerView:
    """One answer with its sources; `id` is what feedback names it by."""

    id: str
    answer: Answer
    pieces: tuple[Piece, ...]
    sources: tuple[Source, ...]
    passages: tuple[Source, ...]
    cost_usd: float | None

    @property
    def unsupported(self) -> bool:
        """Whether a sentence has no source though others could have one."""
        return any(p.unsupported for p in self.pieces)

    @property
    def model(self) -> str:
        """The model that wrote it."""
        made = (c.model for c in reversed(self.answer.calls) if c.kind == "generate")
        return next(made, "")


def view_of(answer: Answer, answer_id: str = "", cost_usd: float | None = None) -> AnswerView:
    """An answer with its citations resolved to sources."""
    numbers: dict[tuple[str, int, int], Source] = {}
    pieces: list[Piece] = []
    at = 0
    for c in sorted(answer.citations, key=lambda c: c.start):
        # What overlaps was cited already.
        if c.start < at or c.end > len(answer.text):
            continue
        if c.start > at:
            pieces.append(Piece(answer.text[at : c.start]))
        pieces.append(_cited(answer, c, numbers))
        at = c.end
    if at < len(answer.text):
        pieces.append(Piece(answer.text[at:]))
    read = tuple(
        Source(
            n,
            p.doc_id,
            p.title or p.doc_id,
            p.anchor,
            place(p.doc_id, p.start, p.end),
            p.text,
            p.score,
        )
        for n, p in enumerate(answer.passages, 1)
    )
    return AnswerView(answer_id, answer, tuple(pieces), tuple(numbers.values()), read, cost_usd)


def place(doc_id: str, start: int, end: int) -> str:
    """The address of a document's page, opened at a span."""
    return "/documents/view?" + urlencode({"id": doc_id, "start": start, "end": end}) + "#hit"


def _cited(answer: Answer, c: Citation, numbers: dict[tuple[str, int, int], Source]) -> Piece:
    text = answer.text[c.start : c.end]
    if not c.doc_id:
        return Piece(text, unsupported=True)
    key = (c.doc_id, c.source_start, c.source_end)
    if key not in numbers:
        found = _passage(answer.passages, c)
        numbers[key] = Source(
            len(numbers) + 1,
            c.doc_id,
            (found.title if found else "") or c.doc_id,
            found.anchor if found else "",
            place(*key),
        )
    source = numbers[key]
    label = f"{source.title}, {source.anchor}" if source.anchor else source.title
    return Piece(text, source.number, source.href, label)


def _passage(passages: Sequence[Passage], c: Citation) -> Passage | None:
    mine = [p for p in passages if p.doc_id == c.doc_id]
    inside = (p for p in mine if p.start <= c.source_start and c.source_end <= p.end)
    return next(inside, mine[0] if mine else None)
