"""An answer taken apart into claims: the sentences, list items and half-sentences that can be
checked one by one. What states nothing (a greeting, a question back, a bare heading) is no claim.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from domainlm.corpus.chunking import sentence_spans
from domainlm.evaluation.abstention import is_abstention
from domainlm.rag.citations import words

_LOWER_END = re.compile(r"(?<=\w)\s?[.!?]\s+(?=[a-z])")
"""A sentence end in lower-cased text with blanks around its marks, as corpora are tokenised."""
_BULLET = re.compile(r"^\s*(?:[-*•‣▪]|\(?\d{1,2}[.)]|#{1,6})\s+")
_MARK = re.compile(r"\s*\[\d{1,3}(?:\s*,\s*\d{1,3})*\]")
_SOURCE = re.compile(
    r"^(?:based on|according to|as (?:stated|mentioned|described|noted) in) "
    r"(?:the |these |this |your )?(?:\w+ ){0,2}"
    r"(?:documents?|context|passages?|texts?|excerpts?|sources?|articles?|information)"
    r"(?: (?:provided|given|above))?,? *",
    re.IGNORECASE,
)
_TALK = re.compile(
    r"^\W*(?:(?:sure|certainly|of course|hello|hi|thanks|thank you|you're welcome)\W*$"
    r"|(?:i hope|let me know|(?:please )?feel free|thank you for (?:your|the|asking))\b)",
    re.IGNORECASE,
)
_CLAUSE = re.compile(r";\s+|,\s+(?:but|whereas|while)\s+(?=\w+\s+\w+\s+\w+)")
_BARE = frozenset({"no", "not", "maybe", "answer"})
"""Beside empty words, what leaves nothing to look up: "The answer is no." stands nowhere."""
_SHORT_CLAUSE = 4
"""Words that a half-sentence needs to stand alone."""


def claims(answer: str) -> tuple[str, ...]:
    """The claims of an answer in order; none for an abstention or an empty text.

    A sentence is cut at semicolons and before contrasting clauses where both sides can stand alone.
    Citation marks, bullets and "According to the documents," are left out.
    """
    if not answer.strip() or is_abstention(answer):
        return ()
    return tuple(c for s in _lines(answer) if states(s) for c in _clauses(s))


def claim_coverage(prediction: str, references: Sequence[str]) -> float:
    """Mean share of a reference's claims that the prediction says, without a model; best reference.

    Of a claim counts the share of its content words that the best claim of the other text holds,
    two neighbours together counting as one; if its numbers are not all among them, half of that,
    since a wrong figure in the right words is not the claim.

    Of 380 judgements of two RAG answers (RAGChecker) the difference of ROUGE-L F follows people's
    preference closer than this or an F of this does, so it says what is missing and is no primary
    metric. It rewards verbosity.
    """
    said = [] if is_abstention(prediction) else _said(prediction)
    return max((_covered(_said(r), said) for r in references), default=0.0)


def states(sentence: str) -> bool:
    """Whether a sentence says something that a document could support."""
    if sentence.endswith(("?", ":")) or _TALK.match(sentence):
        return False
    return bool(words(sentence) - _BARE) and not is_abstention(sentence)


def _said(text: str) -> list[set[str]]:
    """The words of what a text says: of its claims, or of all sentences where none is a claim. A
    reference is no refusal, whatever it sounds like.
    """
    sentences = _lines(text)
    pieces = [c for s in sentences if states(s) for c in _clauses(s)] or sentences
    return [found for piece in pieces if (found := words(piece))]


def _lines(text: str) -> list[str]:
    """Sentences without bullets, citation marks and the naming of the source."""
    bare = (_BULLET.sub("", _MARK.sub("", line)).strip() for line in text.splitlines())
    return [_SOURCE.sub("", s).strip() for line in bare for s in _sentences(line)]


def _sentences(line: str) -> list[str]:
    found = []
    for start, end in sentence_spans(line):
        piece = line[start:end]
        at = 0
        for stop in _LOWER_END.finditer(piece) if piece.islower() else ():
            found.append(piece[at : stop.end()].strip())
            at = stop.end()
        found.append(piece[at:].strip())
    return [f for f in found if f]


def _clauses(sentence: str) -> list[str]:
    parts = [p.strip() for p in _CLAUSE.split(sentence)]
    if all(len(p.split()) >= _SHORT_CLAUSE and words(p) for p in parts):
        return parts
    return [sentence]


def _covered(wanted: list[set[str]], by: list[set[str]]) -> float:
    """Mean share of the claims' words that the best one or two sentences hold."""
    if not wanted or not by:
        return 0.0
    windows = [*by, *(a | b for a, b in zip(by, by[1:], strict=False))]
    total = 0.0
    for claim in wanted:
        best = max(windows, key=lambda window: len(claim & window))
        numbers = {w for w in claim if w[0].isdigit()}
        share = len(claim & best) / len(claim)
        total += share if numbers <= best else share / 2
    return total / len(wanted)
