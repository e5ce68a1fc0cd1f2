"""What speaks for and against a claim in the passages, as numbers: the input of the scorer.

Which of the claim's words, numbers and names stand in the passages, together or scattered, in which
order and under which negation, and how much of the question stands beside them.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from domainlm.corpus.chunking import sentence_spans
from domainlm.corpus.quantities import quantities
from domainlm.rag.citations import EMPTY

FEATURES = (
    "words",
    "words_near",
    "words_lost",
    "words_alike",
    "pairs",
    "run",
    "order",
    "numbers_lost",
    "numbers_far",
    "names_lost",
    "names_far",
    "negated",
    "negation_lost",
    "opposed",
    "short",
    "short_words_near",
    "asked_near",
    "short_asked_near",
    "echo",
)
"""Shares in [0, 1]; `near` means within two neighbouring sentences, `alike` by the first letters,
`asked` the question's words around the claim's, `echo` the claim's words that repeat the question.
"""

_LONGEST = 60
"""Words from which a sentence is cut: tables and lists without a full stop."""
_SHORT = 3
"""Content words up to which a claim is an answer that needs its question."""
_ALIKE = 5
"""First letters that make two words forms of one: activation, activates."""
_WORD = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+(?:['’][^\W\d_]+)?")
_SUFFIX = re.compile(r"(?<=\w{3})(?:ies|ied|ing|ed|es|ly|s|y|e)$")
_NAME = re.compile(r"(?<=[\w,;)’'\"”] )[\"“‘'(]*([A-Z][\w’'-]+)")
_NEGATION = frozenset(
    "not no never none nor neither without cannot nothing nobody unable fail failed fails lack "
    "lacks lacked hardly rarely".split()
)
_NUMBERS = {
    w: float(n)
    for n, w in enumerate("two three four five six seven eight nine ten eleven twelve".split(), 2)
}
_OPPOSITES = (
    "increase decrease|increase reduce|increased decreased|increases decreases|increased reduced|"
    "increases reduces|increasing decreasing|higher lower|more less|more fewer|most least|high low|"
    "before after|first last|above below|maximum minimum|larger smaller|longer shorter|up down|"
    "older younger|earlier later|early late|gain loss|rise fall|rose fell|win lose|won lost|"
    "positive negative|promote inhibit|promotes inhibits|promotes prevents|activates inhibits|"
    "enhance inhibit|improve worsen|improves worsens|allowed forbidden|allowed prohibited|"
    "may must|always never|all none|include exclude|includes excludes|north south|east west|"
    "male female|men women|buyer seller|buy sell|bought sold|present absent|upregulate downregulate"
)


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence of a passage: its words' stems in order, and what they hold."""

    stems: tuple[str, ...]
    held: frozenset[str]
    numbers: frozenset[float]


@dataclass(frozen=True, slots=True)
class Evidence:
    """The passages shown, sentence by sentence; `spans` are runs of one or two neighbours."""

    sentences: tuple[Sentence, ...]
    spans: tuple[tuple[int, ...], ...]
    held: frozenset[str]
    numbers: frozenset[float]
    pairs: frozenset[tuple[str, str]]
    openings: frozenset[str]


@functools.lru_cache(maxsize=1024)
def _sentences(passage: str) -> tuple[Sentence, ...]:
    found = []
    for start, end in sentence_spans(passage):
        text = passage[start:end]
        marks = [m.start() for m in _WORD.finditer(text)]
        cuts = [0, *marks[_LONGEST::_LONGEST], len(text)]
        found += [_sentence(text[a:b].strip()) for a, b in zip(cuts, cuts[1:], strict=False)]
    return tuple(s for s in found if s.stems)


def _sentence(text: str) -> Sentence:
    stems = _stems(text)
    return Sentence(stems, frozenset(stems), frozenset(_values(text)))


@functools.lru_cache(maxsize=128)
def evidence(passages: tuple[str, ...]) -> Evidence:
    """Passages made ready for any number of claims."""
    sentences: list[Sentence] = []
    spans: list[tuple[int, ...]] = []
    pairs: set[tuple[str, str]] = set()
    for passage in passages:
        own = _sentences(passage)
        first = len(sentences)
        sentences += own
        spans += [(n,) for n in range(first, len(sentences))]
        spans += [(n, n + 1) for n in range(first, len(sentences) - 1)]
        for s in own:
            pairs.update(zip(s.stems, s.stems[1:], strict=False))
    held = frozenset().union(*(s.held for s in sentences))
    numbers = frozenset[float]().union(*(s.numbers for s in sentences))
    openings = frozenset(w[:_ALIKE] for w in held if len(w) >= _ALIKE)
    return Evidence(tuple(sentences), tuple(spans), held, numbers, frozenset(pairs), openings)


def features(claim: str, question: str, shown: Evidence) -> list[float]:
    """`FEATURES` of a claim, given evidence that is not empty."""
    stems = _stems(claim)
    said, asked = _content(stems), _content(_stems(question))
    own = said - asked
    span = _best_span(said, asked, shown)
    near = frozenset[str]().union(*(shown.sentences[n].held for n in span))
    near_numbers = frozenset[float]().union(*(shown.sentences[n].numbers for n in span))
    text = [stem for n in span for stem in shown.sentences[n].stems]
    numbers, names = _values(claim), [_stem(n.lower()) for n in _NAME.findall(claim)]
    pairs = list(zip(stems, stems[1:], strict=False))
    short = float(len(said) <= _SHORT)
    words_near = _share(said & near, said)
    asked_near = _share((asked - said) & near, asked - said)
    negated, there = bool(_NEGATION & set(stems)), bool(_NEGATION & near)
    return [
        _share(said & shown.held, said),
        words_near,
        min(len(said - shown.held), 5) / 5,
        _share([w for w in said if w in shown.held or w[:_ALIKE] in shown.openings], said),
        _share([p for p in pairs if p in shown.pairs], pairs) if pairs else words_near,
        _longest_run(stems, shown) / max(len(stems), 1),
        _in_order(stems, text, said & near),
        1 - _share([n for n in numbers if n in shown.numbers], numbers),
        1 - _share([n for n in numbers if n in near_numbers], numbers),
        1 - _share([n for n in names if n in shown.held], names),
        1 - _share([n for n in names if n in near], names),
        float(negated and not there),
        float(there and not negated),
        float(any(a in stems and b in near and a not in near for a, b in _opposites())),
        short,
        short * words_near,
        asked_near,
        short * asked_near,
        1 - _share(own, said) if said else 1.0,
    ]


def _best_span(said: frozenset[str], asked: frozenset[str], shown: Evidence) -> tuple[int, ...]:
    """The shortest run of sentences that holds most of the claim, then of the question."""
    hits = [(said & s.held, asked & s.held) for s in shown.sentences]
    best, found = (-1.0, 0), shown.spans[0]
    for span in shown.spans:
        own, around = hits[span[0]]
        if len(span) == 2:
            own, around = own | hits[span[1]][0], around | hits[span[1]][1]
        value = (len(own) + 0.5 * len(around), -len(span))
        # Equal ones: the first is the better-ranked passage.
        if value > best:
            best, found = value, span
    return found


def _share(
    part: Sequence[object] | frozenset[str], whole: Sequence[object] | frozenset[str]
) -> float:
    return len(part) / len(whole) if whole else 1.0


def _longest_run(stems: Sequence[str], shown: Evidence) -> int:
    """The most words in a row whose neighbouring pairs all stand in the passages."""
    best = run = 0
    for n, stem in enumerate(stems):
        linked = n and (stems[n - 1], stem) in shown.pairs
        run = run + 1 if linked else int(stem in shown.held)
        best = max(best, run)
    return best


def _in_order(stems: Sequence[str], text: Sequence[str], both: frozenset[str]) -> float:
    """Share of the claim's neighbouring shared words that keep their order in the text."""
    place: dict[str, int] = {}
    for n, stem in enumerate(text):
        place.setdefault(stem, n)
    places = [place[s] for s in dict.fromkeys(stems) if s in both]
    steps = list(zip(places, places[1:], strict=False))
    return sum(a < b for a, b in steps) / len(steps) if steps else 1.0


def _values(text: str) -> list[float]:
    """Sizes of a text's numbers, small ones in words too: "a loss of 5" is "(5)"."""
    words = [_NUMBERS[w] for w in _WORD.findall(text.lower()) if w in _NUMBERS]
    return [abs(q.value) for q in quantities(text)] + words


@functools.lru_cache(maxsize=65_536)
def _stem(word: str) -> str:
    return _SUFFIX.sub("", word.removesuffix("'s").removesuffix("’s"))


@functools.lru_cache(maxsize=1024)
def _stems(text: str) -> tuple[str, ...]:
    return tuple(w if w in _NEGATION or w in EMPTY else _stem(w) for w in _tokens(text))


def _tokens(text: str) -> list[str]:
    found = []
    for word in _WORD.findall(text.lower()):
        if word.endswith(("n't", "n’t")):
            found += [word[:-3], "not"]
        else:
            found.append(word)
    return found


def _content(stems: Sequence[str]) -> frozenset[str]:
    return frozenset(s for s in stems if s not in EMPTY and s not in _NEGATION)


@functools.cache
def _opposites() -> tuple[tuple[str, str], ...]:
    """Pairs of stems, both ways round."""
    pairs = [pair.split() for pair in _OPPOSITES.split("|")]
    stems = [(_stem(a), _stem(b)) for a, b in pairs]
    return tuple((a, b) for a, b in stems if a != b) + tuple((b, a) for a, b in stems if a != b)
