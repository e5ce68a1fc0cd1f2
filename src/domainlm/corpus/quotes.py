"""Finding a quotation in a text that writes the same words with other blanks or quotation marks."""

from __future__ import annotations

import re

# One character for one, so that offsets stay: a PDF has typographic marks, its transcript has not.
_MARKS = str.maketrans("‘’‚‛“”„‟‐‑‒–—−\xa0", "''''\"\"\"\"------ ")


def plain_marks(text: str) -> str:
    """Typographic quotation marks, dashes and fixed blanks as ASCII; the length stays."""
    return text if text.isascii() else text.translate(_MARKS)


def find_quote(quote: str, text: str, *, whole_words: bool = False) -> tuple[int, int] | None:
    """Where `quote` first stands in `text`, as half-open offsets; None if nowhere or empty.

    Runs of blanks, quotation marks and dashes may differ. With `whole_words` the quote may not
    begin or end inside a word.
    """
    words = [re.escape(w) for w in plain_marks(quote).split()]
    if not words:
        return None
    pattern = r"\s+".join(words)
    match = re.search(rf"(?<!\w){pattern}(?!\w)" if whole_words else pattern, plain_marks(text))
    return match.span() if match else None
