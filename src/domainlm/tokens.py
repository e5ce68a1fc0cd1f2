"""Tokens of a text without a tokenizer."""

from __future__ import annotations

import re

_TOKEN = re.compile(r"\w{1,7}|[^\w\s]")
_TOKEN_CJK = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\\w{1,7}|[^\\w\\s]")


def estimate_tokens(text: str) -> int:
    """Tokens of `text` as a WordPiece or BPE vocabulary would count them, by shape alone.

    Measured against MiniLM's tokenizer: +10 % on contracts, 0 % on abstracts, +4 % on Wikipedia.
    """
    return len((_TOKEN if text.isascii() else _TOKEN_CJK).findall(text))
