"""Rows that teach a question writer: passages of public sets with people's questions and answers.

Kept are questions that stand alone: the answer is words of the passage, and among all passages of
the set the question's words find its own. CUAD, PolicyQA, MedQuAD and the shipped example are
measured on (`benchmarks/question_writing.py`) and not read here.
"""

from __future__ import annotations

import gzip
import json
import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sets
from domainlm.corpus.chunking import chunk_document, sentence_spans
from domainlm.corpus.quotes import find_quote
from domainlm.schema import TrainingRow
from domainlm.training import question_writer as form
from domainlm.training.facts import Fact

MOST = {"fairytaleqa": 120, "qamr": 220}
"""Rows of the sets that are least like documents of a domain; an absent set teaches nothing."""
WORDS = 150
"""Most words of a passage; longer ones are left out."""
ANSWER_WORDS = 12
CHARACTERS = 350
"""Most characters of the sentence that is shown."""
FOUND = 3
"""A question's words must rank its passage among so many."""
_VAGUE = re.compile(
    r"\b(?:he|she|they|it|him|them|his|her|their|its|this|these|those|"
    r"the (?:authors?|passage|article|study|paper|text))\b",
    re.IGNORECASE,
)
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Asked:
    """A passage and (question, answer) pairs about it."""

    id: str
    title: str
    text: str
    pairs: tuple[tuple[str, str], ...]


def fairytales(data: Path, rng: random.Random) -> Iterator[Asked]:
    """FairytaleQA: explicit questions about one section."""
    folder = data / "fairytaleqa"
    asked: dict[tuple[str, int], list[tuple[str, str]]] = defaultdict(list)
    for row in sets.rows(folder / "questions.jsonl"):
        if row["explicit"] == "explicit" and len(row["sections"]) == 1:
            asked[row["story"], row["sections"][0]].append((row["question"], row["answers"][0]))
    for row in sets.rows(folder / "sections.jsonl.gz"):
        key = row["story"], row["section"]
        title = row["story"].replace("-", " ").strip().capitalize()
        yield Asked(f"{key[0]}-{key[1]}", title, row["text"], tuple(asked[key]))


def covid(data: Path, rng: random.Random) -> Iterator[Asked]:
    """COVID-QA: experts' questions for the piece of an article that holds the answer."""
    rows = json.loads(gzip.decompress((data / "covidqa" / "covidqa.json.gz").read_bytes()))["data"]
    for row in rows:
        paragraph = row["paragraphs"][0]
        text = paragraph["context"]
        whole = sets.document(str(paragraph["document_id"]), text.split("\n")[0][:150], text)
        for chunk in chunk_document(whole, tokens=170):
            pairs = [
                (qa["question"], answer["text"])
                for qa in paragraph["qas"]
                for answer in qa["answers"][:1]
                if chunk.start <= answer["answer_start"]
                and answer["answer_start"] + len(answer["text"]) <= chunk.end
            ]
            yield Asked(chunk.id, whole.title, " ".join(chunk.text.split()), tuple(pairs))


def reports(data: Path, rng: random.Random) -> Iterator[Asked]:
    """TAT-QA: questions that a paragraph beside a table answers in its own words."""
    rows = json.loads((data / "tatqa" / "tatqa_dev.json").read_text("utf-8"))
    for row in rows:
        told = {str(p["order"]): p["text"] for p in row["paragraphs"]}
        asked: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for qa in row["questions"]:
            if qa["answer_type"] == "span" and qa["answer_from"] == "text":
                for place in qa["rel_paragraphs"][:1]:
                    asked[place].append((qa["question"], str(qa["answer"][0])))
        for place, text in told.items():
            yield Asked(f"{row['table']['uid']}-{place}", "", text, tuple(asked[place]))


def wikipedia(data: Path, rng: random.Random) -> Iterator[Asked]:
    """XQuAD, English: SQuAD's questions about paragraphs of 48 articles."""
    rows = json.loads((data / "xquad" / "xquad.en.json").read_text("utf-8"))["data"]
    for row in rows:
        for n, paragraph in enumerate(row["paragraphs"]):
            pairs = tuple((qa["question"], qa["answers"][0]["text"]) for qa in paragraph["qas"])
            title = row["title"].replace("_", " ")
            yield Asked(f"{row['title']}-{n}", title, paragraph["context"], pairs)


def roles(data: Path, rng: random.Random) -> Iterator[Asked]:
    """QAMR: three questions about a sentence; of its dozens many ask for a word, so the answer is
    one on which people agreed, of several words, a name or a number.
    """
    for row in sets.rows(data / "qamr" / "qamr.jsonl.gz"):
        pairs = [
            (qa["question"], qa["answers"][0])
            for qa in row["qas"]
            if len(qa["answers"]) == 1
            and len(qa["question"].split()) >= 6
            and re.search(r"\s|\d|[A-Z]", qa["answers"][0])
        ]
        drawn = rng.sample(pairs, min(3, len(pairs)))
        yield Asked(str(row["id"]), "", row["sentence"], tuple(drawn))


SETS: dict[str, Callable[[Path, random.Random], Iterable[Asked]]] = {
    "xquad": wikipedia,
    "covidqa": covid,
    "tatqa": reports,
    "fairytaleqa": fairytales,
    "qamr": roles,
}
"""What trains; their licences stand in docs/methods.md."""


def rows(data: Path, most: int, seed: int = 0) -> tuple[list[TrainingRow], dict[str, Any]]:
    """At most `most` rows, and of each set how many passages, questions and rows there are."""
    rng = random.Random(seed)
    made: list[TrainingRow] = []
    counts: dict[str, Any] = {}
    for name, read in SETS.items():
        if not (data / name).is_dir():
            continue
        passages = list(read(data, rng))
        kept = [p for p in stand_alone(passages) if p.pairs]
        own = [row for p in kept for row in _rows(name, p)]
        own = rng.sample(own, min(len(own), MOST.get(name, len(own))))
        counts[name] = {
            "passages": len(kept),
            "questions": sum(len(p.pairs) for p in kept),
            "rows": len(own),
        }
        made += own
    rng.shuffle(made)
    return made[:most], counts


def stand_alone(passages: list[Asked]) -> list[Asked]:
    """The passages with the pairs that are fit to learn from."""
    bags = [frozenset(_WORD.findall(f"{p.title} {p.text}".lower())) for p in passages]
    seen = Counter(word for bag in bags for word in bag)
    holding: dict[str, list[int]] = defaultdict(list)
    for n, bag in enumerate(bags):
        for word in bag:
            holding[word].append(n)
    found = []
    for n, passage in enumerate(passages):
        if len(passage.text.split()) > WORDS:
            continue
        pairs: dict[str, tuple[str, str]] = {}
        for question, answer in passage.pairs:
            said = _clean(question, answer, passage.text)
            if not said:
                continue
            scores: Counter[int] = Counter()
            for word in set(_WORD.findall(said[0].lower())):
                for at in holding.get(word, ()):
                    scores[at] += math.log(len(bags) / seen[word])
            better = sum(score > scores[n] for score in scores.values())
            if better < FOUND:
                pairs.setdefault(said[1].lower(), said)
        found.append(Asked(passage.id, passage.title, passage.text, tuple(pairs.values())))
    return found


def _clean(question: str, answer: str, text: str) -> tuple[str, str] | None:
    """The pair as the writer shall write it, the answer verbatim; None where it will not do."""
    question = " ".join(question.split()).replace(" ?", "?")
    span = find_quote(answer.strip().rstrip(".,;"), text, whole_words=True)
    if not span or not question.endswith("?") or _VAGUE.search(question):
        return None
    answer = " ".join(text[slice(*span)].split())
    words = len(question.split())
    if len(answer.split()) > ANSWER_WORDS or not 4 <= words <= 30:
        return None
    if answer.lower() in question.lower():
        return None
    return question[0].upper() + question[1:], answer


def _rows(name: str, passage: Asked) -> Iterator[TrainingRow]:
    """A row for each pair: the sentence that holds the answer and most of the question's words."""
    spans = [(a, b) for a, b in sentence_spans(passage.text) if b - a <= CHARACTERS]
    sentences = [" ".join(passage.text[a:b].split()) for a, b in spans]
    for n, (question, answer) in enumerate(passage.pairs):
        held = [(s, at) for s in sentences if (at := find_quote(answer, s, whole_words=True))]
        if held:
            asked = set(_WORD.findall(question.lower()))
            sentence, (start, end) = max(
                held, key=lambda h: len(asked & set(_WORD.findall(h[0].lower())))
            )
            fact = Fact(passage.id, passage.title, sentence, start, end, "phrase")
            yield TrainingRow(
                f"{name}-{passage.id}-{n}",
                form.prompt(fact),
                question,
                "gold",
                f"{name}-{passage.id}",
                doc_ids=(passage.id,),
            )
