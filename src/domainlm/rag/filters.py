"""Metadata filters taken from the question: a question that names a document is asked of it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from domainlm.rag.preparing import around
from domainlm.rag.stages import Resources, Retriever, build_stage
from domainlm.schema import Passage, StageSpec

_WORD = re.compile(r"[^\W_]+")
_MONTHS = "jan feb mar apr may jun jul aug sep oct nov dec".split()
_MONTH = (
    "(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?"
    "|sept?(?:ember)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)"
)
_DAY = re.compile(
    rf"\b(?P<month>{_MONTH})\.?\s+(?P<day>[0-3]?\d)(?:st|nd|rd|th)?\b(?!,?\d)"
    r"(?:,?\s+(?P<year>(?:19|20)\d\d)\b)?"
    rf"|\b(?P<d>[0-3]?\d)(?:st|nd|rd|th)?\s+(?:of\s+)?(?P<m>{_MONTH})\b\.?"
    r"(?:,?\s+(?P<y>(?:19|20)\d\d)\b)?"
    r"|(?<!\d)(?P<yy>(?:19|20)\d\d)(?P<dash>-?)(?P<mm>0[1-9]|1[0-2])(?P=dash)"
    r"(?P<dd>0[1-9]|[12]\d|3[01])(?!\d)",
    re.IGNORECASE,
)
_LONGEST_RUN = 6
_CLEARLY = 0.9
"""A title named by less than this share of what names another is named by less."""


def named(
    resources: Resources,
    *,
    share: float = 0.6,
    most: int = 5,
    retriever: str = "hybrid",
    settings: dict[str, object] | None = None,
) -> Retriever:
    """Search the documents whose titles the question names, and all of them only where these have
    no more to show.

    A title is named when words that make up `share` of its weight (rare words weigh more) stand in
    the question; numbers are not asked for, but tell titles apart. Of several, one that is named
    by less, mostly by words of a better-named one, is left out; more than `most` name nothing in
    particular.
    """
    inner: Retriever = build_stage("retrieve", StageSpec(retriever, settings or {}), resources)
    titles = Titles.of({doc_id: d.title for doc_id, d in resources.documents.items()})

    def retrieve(query: str, k: int, scope: Sequence[str]) -> list[Passage]:
        chosen = titles.named(query, share, scope)
        if not 0 < len(chosen) <= most:
            return inner(query, k, scope)
        found = inner(query, k, chosen)
        if len(found) < k:
            taken = {p.chunk_id for p in found}
            rest = [p for p in inner(query, k, scope) if p.chunk_id not in taken]
            # Rerankers weigh the old scores: what is named stays ahead.
            floor = min((p.score for p in found), default=math.inf)
            found += [replace(p, score=min(p.score, floor)) for p in rest]
        return found[:k]

    return around(retrieve, inner)


@dataclass(frozen=True)
class Titles:
    """The words' weights, the documents whose titles hold each, and by document the words that a
    name is made of.
    """

    weight: dict[str, float]
    holders: dict[str, list[str]]
    name: dict[str, set[str]]
    bags: dict[str, set[str]]

    @classmethod
    def of(cls, titles: Mapping[str, str]) -> Titles:
        """Weigh the words of titles, given by document id."""
        bags = {doc_id: set(words(title)) for doc_id, title in titles.items()}
        holders: dict[str, list[str]] = {}
        for doc_id, bag in bags.items():
            for word in bag:
                holders.setdefault(word, []).append(doc_id)
        weight = {w: math.log1p(len(bags) / len(d)) for w, d in holders.items()}
        return cls(weight, holders, {d: _name(bag) for d, bag in bags.items()}, bags)

    def named(self, query: str, share: float, scope: Sequence[str] = ()) -> list[str]:
        """Documents of `scope` (empty: all) that the query names, best first."""
        allowed = set(scope)
        said: dict[str, set[str]] = {}
        for word in _glued(words(query)):
            for doc_id in self.holders.get(word, ()):
                if not allowed or doc_id in allowed:
                    said.setdefault(doc_id, set()).add(word)
        total = {doc_id: self._weigh(bag) for doc_id, bag in said.items()}
        passing = [
            doc_id
            for doc_id, bag in said.items()
            if self._weigh(bag & self.name[doc_id]) >= share * self._weigh(self.name[doc_id])
        ]
        kept: list[str] = []
        for doc_id in sorted(passing, key=lambda d: (-total[d], d)):
            outdone = any(
                total[doc_id] < _CLEARLY * total[other]
                and self._weigh(said[doc_id] & said[other]) > total[doc_id] / 2
                for other in kept
            )
            if not outdone:
                kept.append(doc_id)
        return kept

    def unnamed(self, query: str, doc_ids: Sequence[str]) -> str:
        """The query without the words that name these documents, each dropped where it first
        stands; the query as it is if nothing else is left.
        """
        tokens = query.split()
        said = [(n, word) for n, token in enumerate(tokens) for word in words(token)]
        left = set().union(*(self.bags[d] for d in doc_ids))
        dropped: set[int] = set()
        for length in range(_LONGEST_RUN, 0, -1):
            for start in range(len(said) - length + 1):
                run = said[start : start + length]
                word = "".join(w for _, w in run)
                if word in left and not dropped & {n for n, _ in run}:
                    left.remove(word)
                    dropped |= {n for n, _ in run}
        kept = " ".join(token for n, token in enumerate(tokens) if n not in dropped)
        return kept if words(kept) else query

    def _weigh(self, bag: Iterable[str]) -> float:
        return sum(self.weight[w] for w in bag)


def _glued(said: Sequence[str]) -> set[str]:
    """The words, and runs of them without blanks: files are named ACMETOOLSINC."""
    return {
        "".join(said[start : start + n])
        for n in range(1, _LONGEST_RUN + 1)
        for start in range(len(said) - n + 1)
    }


def words(text: str) -> list[str]:
    """Lower-case words of a title or question; camel case and digits are taken apart, and a day is
    one word however it is written, its year another: `20260405`, `April 5th, 2026` and `2026-04-05`
    all hold `04-05`.
    """
    days: list[str] = []

    def day(match: re.Match[str]) -> str:
        part = match.groupdict()
        month = part["month"] or part["m"] or part["mm"]
        number = _MONTHS.index(month[:3].lower()) + 1 if month[0].isalpha() else int(month)
        days.append(f"{number:02}-{int(part['day'] or part['d'] or part['dd']):02}")
        return f" {part['year'] or part['y'] or part['yy'] or ''} "

    rest = _DAY.sub(day, text)
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=\D)(?=\d)|(?<=\d)(?=\D)", " ", rest)
    return [*(w.lower() for w in _WORD.findall(apart) if len(w) > 1), *days]


def _name(bag: set[str]) -> set[str]:
    """What must be said of a title: its words with letters, since file names are full of numbers
    that nobody says; else its days; else all.
    """
    lettered = {w for w in bag if not w[0].isdigit()}
    return lettered or {w for w in bag if "-" in w} or bag
