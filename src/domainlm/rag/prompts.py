"""The prompts that every arm shares: one for closed book, one for passages.

Training rows and answers use the same functions, so a model never meets a template that it was
not trained on. Passages are data: they stand between numbered headings, before the question, and a
line of theirs that looks like either is marked as quoted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from domainlm.schema import ABSTENTION, FORM, Chat, Message, Passage, Question

CLOSED_BOOK = "Answer the question about the domain briefly and exactly."
WITH_PASSAGES = (
    "Answer the question briefly from the passages, in their own words. "
    f"If they do not contain the answer, reply: {ABSTENTION}"
)
_FORMS = {
    "numeric": "Answer with a number and its unit.",
    "long_form": "Answer in a few full sentences.",
}
_FORGED = re.compile(
    r"((?:^|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029])[ \t\xa0\u2000-\u200f\u202f\u2060\u3000\ufeff]*)"
    r"(?=\[\s*\d+\s*\]|question\s*:)",
    re.IGNORECASE,
)


def closed_book(question: Question) -> Chat:
    """The prompt of `base` and `tuned`."""
    return (Message("system", CLOSED_BOOK), Message("user", _ask(question)))


def with_passages(question: Question, passages: Sequence[Passage]) -> Chat:
    """The prompt of `rag`, `tuned+rag` and `raft`."""
    blocks = []
    shown = ""
    for n, p in enumerate(passages, 1):
        # A title repeated above each passage of one document would only cost tokens.
        heading = f"[{n}] {' '.join(p.title.split())}" if p.doc_id != shown else f"[{n}]"
        blocks.append(f"{heading}\n{quoted(p.text.strip())}")
        shown = p.doc_id
    body = "\n\n".join([*blocks, f"Question: {_ask(question)}"])
    return (Message("system", WITH_PASSAGES), Message("user", body))


def quoted(text: str) -> str:
    """Document text in which no line can pass for a passage's number or for the question."""
    return _FORGED.sub(r"\1> ", text)


def _ask(question: Question) -> str:
    if question.choices:
        return f"{question.text}\nAnswer with one of: {', '.join(question.choices)}."
    # What has no answer is asked as what has one, or the prompt would tell.
    form = question.metadata.get(FORM, question.task)
    return f"{question.text}\n{_FORMS[form]}" if form in _FORMS else question.text
