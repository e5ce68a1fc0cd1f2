"""Citations without a model: every sentence of an answer points to a verbatim span, or to none.

A sentence is supported by the passage sentence (or two neighbours) that holds most of its content
words, if that is most of them and every number is among them: a wrong figure in the right words is
what a citation must not cover. This says where a sentence may come from, not that it follows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from domainlm.corpus.chunking import sentence_spans
from domainlm.corpus.quotes import find_quote
from domainlm.schema import ABSTENTION, Citation, Passage

SUPPORT = 0.6
"""Share of a sentence's content words that its source must hold."""
_WORD = re.compile(r"\w+(?:[.,]\d+)*")
EMPTY = frozenset(
    "a an and are as at be been but by can could did do does for from had has have he her his how "
    "i if in is it its may of on or she so than that the their them there they this to was "
    "we were what when where which who will with would yes you".split()
)


def cite(answer: str, passages: Sequence[Passage]) -> tuple[Citation, ...]:
    """One citation per sentence of `answer`, in order; none for an abstention."""
    if not passages or answer.strip() in ("", ABSTENTION):
        return ()
    windows = [
        (passage, start, end, words(passage.text[start:end]))
        for passage in passages
        for start, end in _windows(passage.text)
    ]
    found = []
    for start, end in sentence_spans(answer):
        said = answer[start:end].strip()
        if not said:
            continue
        start = answer.index(said, start)
        place = (start, start + len(said))
        found.append(_verbatim(place, said, passages) or _nearest(place, said, windows))
    return tuple(found)


def words(text: str) -> set[str]:
    """Content words and numbers, lower-case."""
    return {w for w in _WORD.findall(text.lower()) if w not in EMPTY}


def _windows(text: str) -> Iterator[tuple[int, int]]:
    spans = [(a, b) for a, b in sentence_spans(text) if text[a:b].strip()]
    yield from spans
    yield from ((a, d) for (a, _), (_, d) in zip(spans, spans[1:], strict=False))


def _verbatim(place: tuple[int, int], said: str, passages: Sequence[Passage]) -> Citation | None:
    quote = said.strip(" .\"“”'")
    if not words(quote):
        return None
    for passage in passages:
        span = find_quote(quote, passage.text, whole_words=True)
        if span and not _inside_number(passage.text, *span):
            return _citation(place, passage, *span, 1.0)
    return None


def _inside_number(text: str, start: int, end: int) -> bool:
    """Whether the span is only part of a figure: the 5 of 2.5, the 500 of 500,000."""
    before, after = text[max(start - 2, 0) : start], text[end : end + 2]
    return bool(re.search(r"\d[.,]$", before) or re.match(r"[.,]\d", after))


def _nearest(
    place: tuple[int, int], said: str, windows: Sequence[tuple[Passage, int, int, set[str]]]
) -> Citation:
    wanted = words(said)
    numbers = {w for w in wanted if w[0].isdigit()}
    best, support = None, 0.0
    for window in windows:
        share = len(wanted & window[3]) / max(len(wanted), 1)
        # Equal windows: the first is the better-ranked passage and the shorter span.
        if share > support and numbers <= window[3]:
            best, support = window, share
    if best is None or support < SUPPORT:
        return Citation(*place)
    passage, start, end, _ = best
    shown = passage.text[start:end]
    start += len(shown) - len(shown.lstrip())
    return _citation(place, passage, start, start + len(shown.strip()), support)


def _citation(
    place: tuple[int, int], passage: Passage, start: int, end: int, support: float
) -> Citation:
    """With the span moved from the passage to its document.

    A compressed passage no longer stands verbatim in its document; its whole span is cited.
    """
    if len(passage.text) != passage.end - passage.start:
        return Citation(*place, passage.doc_id, passage.start, passage.end, round(support, 4))
    source = passage.start + start
    return Citation(*place, passage.doc_id, source, source + end - start, round(support, 4))
