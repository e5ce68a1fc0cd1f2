"""Documents become chunks whose spans are verbatim and whose ids follow from their content.

Boundaries come from semchunk (recursive splits at the strongest separator). It sees a shadow of
the text in which white space is plain and short: separators then nest a few levels deep at most,
and no input can make it recurse or search without end.
"""

from __future__ import annotations

import hashlib
import json
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Literal, get_args

from semchunk.semchunk import chunk as semchunk_split

from domainlm.errors import ConfigError
from domainlm.schema import Anchor, Chunk, Document
from domainlm.tokens import estimate_tokens

Strategy = Literal["recursive", "sentence_window", "parent_child"]
Counter = Callable[[str], int]
Span = tuple[int, int]

_HEADER_CHARS = 120
_MAX_CHARS_PER_TOKEN = 12
_TINY = 6
"""A span under 1/6 of the size is joined to a neighbour where both fit: lone headings, numbers."""

_ODD_BREAK = re.compile("[\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
_ODD_SPACE = re.compile("[\x1f\xa0\u1680\u2000-\u200a\u202f\u205f\u3000]")
_SOFT_BREAK = re.compile(r"(?<=[a-z,;])\n(?=[a-z(])")
_CHASM = re.compile(r"\s{200,}")
"""So much white space always ends a chunk: else the chunk's verbatim text would carry it along."""
_LONG_GAP = re.compile(r"\s{4,}")
_SENTENCE_END = re.compile(
    "[.!?][\"'\u201d\u2019)\\]]{0,3}(\\s+)(?=[\"'\u201c\u2018(\\[]?[^\\W_a-z])|[。！？](?=.)|\n+"
)
_PASSAGE_ID = re.compile(r"(.+)@\d+-\d+(?:-[0-9a-f]{8})?", re.DOTALL)
_WORD_START = re.compile(r"(?<!\S)\S")
_ABBREVIATION = re.compile(
    r"(?:^|[\s(])(?:[A-Z]|Mr|Mrs|Ms|Dr|Prof|St|No|Nos|Inc|Ltd|Co|Corp|Sec|Art|Fig|Eq|vs|cf|al|"
    r"approx|e\.g|i\.e|U\.S|U\.K)$"
)


def chunk_document(
    doc: Document,
    *,
    use: Strategy = "recursive",
    tokens: int = 160,
    overlap: int = 0,
    window: int = 2,
    parent_tokens: int = 480,
    header: bool = True,
    count: Counter | None = None,
) -> list[Chunk]:
    """Cut one document; `doc.text[c.start:c.end] == c.text` for every chunk.

    Args:
        doc: the document.
        use: `recursive` spans; `sentence_window` finds short runs of sentences and shows the
            reader their neighbours; `parent_child` finds small spans and shows the large one
            around them.
        tokens: most tokens of a chunk (its text without header).
        overlap: tokens repeated from the chunk before (not for `sentence_window`).
        window: neighbours shown on either side (`sentence_window` only).
        parent_tokens: most tokens of a parent (`parent_child` only).
        header: prefix "Title > Section" for the index.
        count: the embedder's tokenizer; by default `estimate_tokens`.

    Raises:
        ConfigError: a setting is out of range.
    """
    _check(use, tokens, overlap, window, parent_tokens)
    counter = _bounded(count or estimate_tokens, max(tokens, parent_tokens))
    chunks: list[Chunk] = []
    edges = [0, *(m.end() for m in _CHASM.finditer(doc.text)), len(doc.text)]
    for base, edge in pairwise(edges):
        shadow = _Shadow(doc.text[base:edge], base)
        body = shadow.text
        found: list[tuple[Span, Span]] = []
        if use == "sentence_window":
            units = _sentence_units(body, tokens, counter)
            for i, unit in enumerate(units):
                first, last = units[max(0, i - window)], units[min(len(units) - 1, i + window)]
                found.append((unit, (first[0], last[1])))
        elif use == "parent_child":
            for start, end in _split(body, parent_tokens, counter):
                for s, e in _overlapped(body[start:end], tokens, overlap, counter):
                    found.append(((start + s, start + e), (start, end)))
        else:
            found = [(span, span) for span in _overlapped(body, tokens, overlap, counter)]
        chunks += [
            _chunk(doc, shadow.back(span), shadow.back(shown), use, header) for span, shown in found
        ]
    return chunks


def _anchor(doc: Document, offset: int) -> Anchor | None:
    """Anchors are sorted by start, so the last one that begins before `offset` is innermost."""
    index = bisect_right(doc.anchors, offset, key=lambda a: a.start)
    while index:
        index -= 1
        if doc.anchors[index].end > offset:
            return doc.anchors[index]
    return None


def _chunk(doc: Document, span: Span, shown: Span, use: str, with_header: bool) -> Chunk:
    start, end = span
    text = doc.text[start:end]
    anchor = _anchor(doc, start)
    header = _header(doc.title, anchor) if with_header else ""
    content = json.dumps(
        [use, doc.title, text, doc.text[shown[0] : shown[1]], shown[0] - start, header]
    )
    digest = hashlib.sha256(content.encode()).hexdigest()[:8]
    return Chunk(
        id=f"{doc.id}@{start}-{end}-{digest}",
        doc_id=doc.id,
        text=text,
        start=start,
        end=end,
        window_start=shown[0],
        window_end=shown[1],
        title=doc.title,
        header=header,
        anchor=f"{anchor.kind} {anchor.label}" if anchor else "",
    )


def doc_of(chunk_id: str) -> str:
    """The document behind a passage's id; empty if the id is not of this form."""
    found = _PASSAGE_ID.fullmatch(chunk_id)
    return found[1] if found else ""


def _header(title: str, anchor: Anchor | None) -> str:
    """Title and nearest named place; page and row numbers would only blur the embedding."""
    label = anchor.label if anchor and anchor.kind in ("section", "sheet", "slide") else ""
    label = re.sub(r"^\d+(: |$)", "", label) if anchor and anchor.kind == "slide" else label
    if not label or label == title:
        return title[:_HEADER_CHARS]
    room = _HEADER_CHARS - len(" > ")
    label = label[: max(room - len(title), room // 2)]
    return f"{title[: room - len(label)]} > {label}" if title else label


def _check(use: str, tokens: int, overlap: int, window: int, parent_tokens: int) -> None:
    if use not in get_args(Strategy):
        raise ConfigError(
            f"chunking {use!r} is unknown; use one of {', '.join(get_args(Strategy))}"
        )
    if tokens < 1:
        raise ConfigError(f"chunking tokens is {tokens}; it must be at least 1")
    if not 0 <= overlap < tokens:
        raise ConfigError(f"chunking overlap is {overlap}; it must be from 0 to tokens - 1")
    if window < 0:
        raise ConfigError(f"chunking window is {window}; it must be 0 or more")
    if use == "parent_child" and parent_tokens < tokens:
        raise ConfigError(
            f"chunking parent_tokens is {parent_tokens}, below tokens ({tokens}); make it larger"
        )


class _Shadow:
    """A text with plain, short white space, and the way back to the original's offsets."""

    def __init__(self, original: str, base: int) -> None:
        # These substitutions keep every offset. A line break inside a sentence (as PDFs have at
        # the end of each line) must not attract a chunk boundary.
        plain = _ODD_SPACE.sub(" ", _ODD_BREAK.sub("\n", original))
        plain = _SOFT_BREAK.sub(" ", plain)
        parts: list[str] = []
        self._starts, self._origins = [0], [base]
        at = length = 0
        for gap in _LONG_GAP.finditer(plain):
            short = "\n\n\n" if "\n" in gap.group() else "  "
            parts += [plain[at : gap.start()], short]
            length += gap.start() - at + len(short)
            at = gap.end()
            self._starts.append(length)
            self._origins.append(base + at)
        parts.append(plain[at:])
        self.text = "".join(parts)

    def back(self, span: Span) -> Span:
        """Offsets in the original of a span that begins and ends with a visible character."""
        return self._origin(span[0]), self._origin(span[1] - 1) + 1

    def _origin(self, offset: int) -> int:
        i = bisect_right(self._starts, offset) - 1
        return self._origins[i] + offset - self._starts[i]


def _bounded(count: Counter, largest: int) -> Counter:
    """`count` with a floor of one token per 12 characters, and no tokenizing of huge spans.

    Some tokenizers make one token of a megabyte without spaces; such a chunk would be useless.
    """

    def bounded(text: str) -> int:
        floor = len(text) // _MAX_CHARS_PER_TOKEN
        return floor if floor > largest else max(count(text), floor)

    return bounded


def _split(text: str, size: int, count: Counter) -> list[Span]:
    """Spans of at most `size` tokens, without white space at their ends."""
    if not text or text.isspace():
        return []
    if count(text) <= size:
        return _trimmed(text, [(0, len(text))])
    _, offsets = semchunk_split(text, size, count, memoize=False, offsets=True)
    return _join_tiny(text, _trimmed(text, offsets), size, count)


def _trimmed(text: str, spans: Iterable[Span]) -> list[Span]:
    kept: list[Span] = []
    for start, end in spans:
        piece = text[start:end]
        left, right = len(piece) - len(piece.lstrip()), len(piece) - len(piece.rstrip())
        if left < len(piece):
            kept.append((start + left, end - right))
    return kept


def _join_tiny(text: str, spans: Sequence[Span], size: int, count: Counter) -> list[Span]:
    """Give lone headings and list numbers to the span after (or before) them, where they fit."""
    joined: list[Span] = []
    sizes: list[int] = []
    for span in spans:
        n = count(text[span[0] : span[1]])
        if joined and min(n, sizes[-1]) * _TINY < size and n + sizes[-1] <= size:
            both = (joined[-1][0], span[1])
            total = count(text[both[0] : both[1]])
            if total <= size:
                joined[-1], sizes[-1] = both, total
                continue
        joined.append(span)
        sizes.append(n)
    return joined


def _overlapped(text: str, size: int, overlap: int, count: Counter) -> list[Span]:
    """Spans whose starts reach back up to `overlap` tokens, to a sentence start if possible."""
    spans = _split(text, size - overlap, count)
    if not overlap:
        return spans
    extended = spans[:1]
    for (previous, _), (start, end) in zip(spans, spans[1:], strict=False):
        low = max(previous, start - overlap * _MAX_CHARS_PER_TOKEN)
        words = [m.start() for m in _WORD_START.finditer(text, low, start)]
        fits = words[bisect_left(words, -overlap, key=_negative_count(text, start, count)) :]
        sentences = {m.end() for m in _SENTENCE_END.finditer(text, low, start)}
        whole = [w for w in fits if w in sentences]
        extended.append((min(whole or fits or [start]), end))
    return extended


def _negative_count(text: str, end: int, count: Counter) -> Callable[[int], int]:
    """Minus the tokens from an offset to `end`: rises with the offset, as a bisection needs."""
    return lambda offset: -count(text[offset:end])


def _sentence_units(text: str, size: int, count: Counter) -> list[Span]:
    """Sentences, short ones joined until they reach a quarter of `size`, long ones split."""
    units: list[Span] = []
    open_tokens = size  # tokens of the last unit while it may still grow
    for start, end in sentence_spans(text):
        n = count(text[start:end])
        if n > size:
            units += [(start + s, start + e) for s, e in _split(text[start:end], size, count)]
            open_tokens = size
        elif units and open_tokens * 4 < size and open_tokens + n <= size:
            units[-1] = (units[-1][0], end)
            open_tokens += n
        else:
            units.append((start, end))
            open_tokens = n
    return units


def sentence_spans(text: str) -> list[Span]:
    """Spans of sentences that cover the text."""
    spans: list[Span] = []
    start = 0
    for match in _SENTENCE_END.finditer(text):
        if match.group().startswith(".") and _ABBREVIATION.search(
            text[max(start, match.start() - 12) : match.start()]
        ):
            continue
        spans.append((start, match.end()))
        start = match.end()
    spans.append((start, len(text)))
    return _trimmed(text, spans)
