"""A document around a span: its text, cut where it is long, and the page that it stands on."""

from __future__ import annotations

from dataclasses import dataclass

from domainlm.schema import Document

AROUND = 6_000
"""Characters shown before and after the span; a whole book would make the page slow."""


@dataclass(frozen=True, slots=True)
class Excerpt:
    """Text before, in and after a span, and how many characters are left out at each end."""

    before: str
    hit: str
    after: str
    cut_before: int
    cut_after: int


def excerpt(text: str, start: int, end: int, around: int = AROUND) -> Excerpt:
    """The span of a text with what stands around it; a span outside the text is drawn into it."""
    start = min(max(0, start), len(text))
    end = min(max(start, end), len(text))
    first, last = max(0, start - around), min(len(text), end + around)
    # From a line's beginning to a line's end, where one is near.
    line = text.find("\n", first, start) + 1 if first else 0
    first = line if 0 < line <= first + 500 else first
    stop = text.rfind("\n", end, last) if last < len(text) else -1
    last = stop if stop >= max(end, last - 500) else last
    return Excerpt(text[first:start], text[start:end], text[end:last], first, len(text) - last)


def page_of(document: Document, start: int) -> int | None:
    """The number of the page that a character stands on; None for a document without pages."""
    for anchor in document.anchors:
        if anchor.kind == "page" and anchor.start <= start < anchor.end and anchor.label.isdigit():
            return int(anchor.label)
    return None


def place_name(document: Document, start: int) -> str:
    """The smallest named place around a character: `page 3`, `section Costs`."""
    around = [a for a in document.anchors if a.start <= start < a.end]
    if not around:
        return ""
    nearest = min(around, key=lambda a: a.end - a.start)
    return f"{nearest.kind} {nearest.label}"
