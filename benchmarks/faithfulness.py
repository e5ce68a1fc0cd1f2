"""Claims with passages and a label, from public sets: people's judgements, and planted errors.

HaluEval and SciFact come with labels, as do the test sets. The other training sets are made here
from questions with answers and from human-written grounded texts: the right answer is supported,
and an altered one is not (a number, a name, a negation or a word changed; the answer to another
question; the passage that holds the support taken away).
"""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from domainlm.corpus.chunking import sentence_spans

_BESIDE = 3
"""Sentences shown on either side of an answer in a long article."""
_NAME = re.compile(r"(?<=[a-z,] )[A-Z][a-z]{2,}(?: [A-Z][a-z]+)*")
_NUMBER = re.compile(r"(?<![\w.,])\d[\d,]*(?:\.\d+)?(?![\w])")
_BE = re.compile(
    r"\b(is|are|was|were|will|can|may|must|should|has|have)\b(?! not\b)", re.IGNORECASE
)
_SUBJECT = re.compile(
    r"^(?:who|what|which \w+) (?=(?!(?:do|does|did|else)\b)\w+)(.*)\?$", re.IGNORECASE
)
_SWAPS = (
    "increase decrease|higher lower|more less|before after|first last|above below|always never|"
    "may must|include exclude|large small|early late|old young|north south|east west|"
    "brother sister|king queen|father mother|good bad|happy sad|all some|buy sell|start end"
)


@dataclass(frozen=True, slots=True)
class Case:
    """An answer (one claim in training sets) to a question, the passages shown, whether they
    support it, and what it hangs together with.
    """

    answer: str
    question: str
    passages: tuple[str, ...]
    supported: bool
    source: str
    group: str


def begin(folder: Path) -> list[Case]:
    """BEGIN (Dziri et al., 2105.00071), Wizard of Wikipedia: fully attributable, or not."""
    return [
        Case(
            row["response"],
            row["message"],
            (row["knowledge"],),
            row["begin_label"] == "Fully attributable",
            "begin",
            row["knowledge"],
        )
        for row in _rows(folder / "faithfulness" / "begin_wow.jsonl")
        if row["response"].strip()
    ]


def mtrag(folder: Path) -> list[Case]:
    """MT-RAG (Katsis et al., 2501.03468): faithful if the median of people's ratings is 4 of 4.
    Answers to which no passage was shown are left out.
    """
    texts = {
        row["document_id"]: row["text"]
        for row in _rows(folder / "faithfulness" / "mtrag_documents.jsonl")
    }
    cases = []
    for row in _rows(folder / "faithfulness" / "mtrag_human_ratings.jsonl"):
        passages = tuple(texts[i] for i in row["context_ids"] if i in texts)
        for answer in row["responses"] if passages else ():
            ratings = [float(v) for v in answer["human"]["faithfulness"].values()]
            cases.append(
                Case(
                    answer["response"],
                    row["input"][-1]["text"],
                    passages,
                    median(ratings) == 4,
                    "mtrag",
                    row["conversation"],
                )
            )
    return cases


def financebench(folder: Path) -> list[Case]:
    """FinanceBench (Islam et al., 2311.11944): answers that people called right or wrong, with the
    passage that holds the answer. Correctness, not faithfulness: right answers may be computed.
    """
    shown = {
        q["financebench_id"]: (q["question"], tuple(e["evidence_text"] for e in q["evidence"]))
        for q in _rows(folder / "financebench" / "questions.jsonl")
    }
    return [
        Case(
            row["model_answer"],
            *shown[row["financebench_id"]],
            row["label"] == "Correct Answer",
            "financebench",
            row["financebench_id"],
        )
        for row in _rows(folder / "financebench" / "judged_answers.jsonl")
        if row["financebench_id"] in shown and row["label"] != "Refusal"
    ]


def halueval(folder: Path) -> list[Case]:
    """HaluEval QA (Li et al., 2305.11747): right answers and invented ones."""
    cases = []
    for row in _rows(folder / "faithfulness" / "halueval_qa.jsonl"):
        shown = (row["knowledge"],)
        case = Case(
            row["right_answer"], row["question"].strip(), shown, True, "halueval", row["id"]
        )
        cases.append(case)
        cases += [
            replace(case, answer=wrong["text"], supported=False)
            for wrong in row["hallucinated_answers"]
        ]
    return cases


def scifact(folder: Path) -> list[Case]:
    """SciFact (Wadden et al., 2004.14974): claims that an abstract supports, or does not."""
    texts = {r["_id"]: r["text"] for r in _rows(folder / "scifact" / "corpus.jsonl.gz")}
    cases = []
    for row in _rows(folder / "scifact" / "queries.jsonl"):
        labels = {e["doc_id"]: e["label"] for e in row["evidence"]}
        for doc_id in row["cited_doc_ids"]:
            if doc_id in texts:
                supported = labels.get(doc_id) == "SUPPORT"
                cases.append(Case(row["text"], "", (texts[doc_id],), supported, "scifact", doc_id))
    return cases


def policyqa(folder: Path) -> list[Case]:
    """PolicyQA: an answer, and what another site answers to the same question."""
    data = json.loads((folder / "policyqa" / "policyqa_dev.json").read_text("utf-8"))["data"]
    asked = [
        (site["title"], p["context"], qa["question"], qa["answers"][0]["text"])
        for site in data
        for p in site["paragraphs"]
        for qa in p["qas"]
    ]
    cases = []
    for site, context, question, answer in _some(asked, 450, lambda a: f"{a[0]}{a[2]}{a[3]}"):
        case = Case(answer, question, (context,), True, "policyqa", site)
        others = [a for s, c, q, a in asked if q == question and s != site and a not in context]
        cases.append(case)
        if others:
            cases.append(replace(case, answer=_pick(others, answer), supported=False))
    return cases


def qamr(folder: Path) -> list[Case]:
    """QAMR: an answer in its sentence, and the sentence's answer to another question."""
    cases = []
    rows = list(_rows(folder / "qamr" / "qamr.jsonl.gz"))
    for n, row in enumerate(rows):
        shown = (f"{rows[n - 1]['sentence']} {row['sentence']}",)
        for qa in _some(row["qas"], 2, lambda q: q["question"]):
            case = Case(qa["answers"][0], qa["question"], shown, True, "qamr", row["id"])
            mine = {w for a in qa["answers"] for w in a.lower().split()}
            others = [
                q["answers"][0]
                for q in row["qas"]
                if not mine & set(" ".join(q["answers"]).lower().split())
            ]
            if others:
                wrong = replace(case, answer=_pick(others, qa["question"]), supported=False)
                cases += _told(case, wrong)
    return cases


def fairytales(folder: Path) -> list[Case]:
    """FairytaleQA: explicit answers, and those to other questions about the same story."""
    texts = {
        (r["story"], r["section"]): r["text"]
        for r in _rows(folder / "fairytaleqa" / "sections.jsonl.gz")
    }
    asked = [
        q for q in _rows(folder / "fairytaleqa" / "questions.jsonl") if q["explicit"] == "explicit"
    ]
    by_story: dict[str, list[Any]] = {}
    for q in asked:
        by_story.setdefault(q["story"], []).append(q)
    cases = []
    for q in _some(asked, 450, lambda q: q["id"]):
        shown = tuple(texts[q["story"], s] for s in q["sections"] if (q["story"], s) in texts)
        others = [
            o["answers"][0]
            for o in by_story[q["story"]]
            if o["attribute"] == q["attribute"] and not _alike(o["answers"], q["answers"])
        ]
        if shown and others:
            case = Case(q["answers"][0], q["question"], shown, True, "fairytales", q["story"])
            wrong = replace(case, answer=_pick(others, q["id"]), supported=False)
            cases += _told(case, wrong)
    return cases


def covid(folder: Path) -> list[Case]:
    """COVID-QA: an expert's answer with the sentences around it, altered or without them."""
    data = json.loads(gzip.decompress((folder / "covidqa" / "covidqa.json.gz").read_bytes()))
    asked = []
    for article in data["data"]:
        paragraph = article["paragraphs"][0]
        for qa in paragraph["qas"]:
            answer = qa["answers"][0]
            if 3 <= len(answer["text"].split()) <= 40:
                asked.append((paragraph["context"], qa["question"], answer, article["doc_key"]))
    cases = []
    for context, question, answer, key in _some(asked, 250, lambda a: a[1]):
        spans = sentence_spans(context)
        inside = [
            n
            for n, (a, b) in enumerate(spans)
            if b > answer["answer_start"] and a < answer["answer_start"] + len(answer["text"])
        ]
        if not inside:
            continue
        first, last = inside[0], inside[-1]
        near = spans[max(0, first - _BESIDE) : last + 1 + _BESIDE]
        shown = context[near[0][0] : near[-1][1]]
        case = Case(answer["text"], question, (shown,), True, "covid", key)
        cases.append(case)
        far = spans[last + 1 + _BESIDE : last + 8 + _BESIDE]
        cases.append(_wrong(case, context[far[0][0] : far[-1][1]] if far else ""))
    return cases


def clapnq(folder: Path) -> list[Case]:
    """CLAP NQ: sentences of people's long answers, altered or without their support."""
    cases = []
    for row in _rows(folder / "clapnq" / "clapnq_dev.jsonl"):
        for output in row["output"][:1]:
            passage = row["passages"][0]
            chosen = {s.strip() for s in output.get("selected_sentences") or ()}
            rest = " ".join(s for s in passage["sentences"] if s.strip() not in chosen)
            for start, end in sentence_spans(output["answer"]):
                said = output["answer"][start:end].strip()
                if len(said.split()) < 5:
                    continue
                case = Case(said, row["input"], (passage["text"],), True, "clapnq", row["id"])
                cases += [case, _wrong(case, rest)]
    return cases


def legal(folder: Path) -> list[Case]:
    """Plain-English summaries of terms of service, and those of another service's terms."""
    rows = json.loads((folder / "legal_summarization" / "legal_summaries.json").read_text("utf-8"))
    kept = [r for r in rows if len(r["reference_summary"].split()) >= 5]
    cases = []
    for row in kept:
        shown = (row["original_text"],)
        case = Case(row["reference_summary"], "", shown, True, "legal", row["doc"])
        others = [r["original_text"] for r in kept if r["doc"] != row["doc"]]
        cases += [case, _wrong(case, _pick(others, row["uid"]))]
    return cases


TRAIN: dict[str, Callable[[Path], list[Case]]] = {
    "halueval": halueval,
    "scifact": scifact,
    "policyqa": policyqa,
    "qamr": qamr,
    "fairytales": fairytales,
    "covid": covid,
    "clapnq": clapnq,
    "legal": legal,
}
TEST: dict[str, Callable[[Path], list[Case]]] = {
    "begin": begin,
    "mtrag": mtrag,
    "financebench": financebench,
}
"""Labelled by people, never trained on; no choice rests on them."""


def altered(text: str, passages: Sequence[str], rng: random.Random) -> str | None:
    """`text` with one thing changed that turns it false, or None if nothing offers itself."""
    ways = [_other_number, _other_name, _negated, _opposite, _other_word]
    rng.shuffle(ways)
    for way in sorted(ways, key=lambda w: w is _other_word):
        made = way(text, " ".join(passages), rng)
        if made and made != text:
            return made
    return None


def _other_number(text: str, shown: str, rng: random.Random) -> str | None:
    places = list(_NUMBER.finditer(text))
    if not places:
        return None
    place = rng.choice(places)
    others = [n for n in _NUMBER.findall(shown) if n != place[0]]
    digits = place[0].replace(",", "")
    value = float(digits)
    made = str(
        round(value + rng.choice([-3, -2, -1, 1, 2, 3, 10])) if value > 3 else int(value) + 2
    )
    if others and rng.random() < 0.5:
        made = rng.choice(others)
    return text[: place.start()] + made + text[place.end() :]


def _other_name(text: str, shown: str, rng: random.Random) -> str | None:
    places = list(_NAME.finditer(text))
    others = sorted({n for n in _NAME.findall(shown) if n not in text})
    if not places or not others:
        return None
    place = rng.choice(places)
    return text[: place.start()] + rng.choice(others) + text[place.end() :]


def _negated(text: str, shown: str, rng: random.Random) -> str | None:
    if re.search(r"\bnot ", text):
        return re.sub(r"\bnot ", "", text, count=1)
    places = list(_BE.finditer(text))
    if not places:
        return None
    place = rng.choice(places)
    return f"{text[: place.end()]} not{text[place.end() :]}"


def _opposite(text: str, shown: str, rng: random.Random) -> str | None:
    found = []
    for pair in _SWAPS.split("|"):
        a, b = pair.split()
        found += [(m, y) for x, y in ((a, b), (b, a)) for m in re.finditer(rf"\b{x}\b", text)]
    if not found:
        return None
    place, other = rng.choice(found)
    return text[: place.start()] + other + text[place.end() :]


def _other_word(text: str, shown: str, rng: random.Random) -> str | None:
    places = list(re.finditer(r"\b[a-z]{5,}\b", text))
    others = [w for w in re.findall(r"\b[a-z]{5,}\b", shown) if w not in text]
    if not places or not others:
        return None
    place = rng.choice(places)
    return text[: place.start()] + rng.choice(others) + text[place.end() :]


def _wrong(case: Case, elsewhere: str) -> Case:
    """A case that its passages do not support: altered, or shown other passages."""
    rng = random.Random(case.answer)
    made = altered(case.answer, case.passages, rng)
    unsupported = replace(case, supported=False)
    if made and (not elsewhere.strip() or rng.random() < 0.6):
        return replace(unsupported, answer=made)
    return replace(unsupported, passages=(elsewhere or "-",))


def _told(case: Case, wrong: Case) -> list[Case]:
    """A right and a wrong answer; as a sentence where the question allows it and fate says so."""
    told = _SUBJECT.match(case.question)
    if told and random.Random(case.answer + case.question).random() < 0.7:
        return [
            replace(c, answer=f"{c.answer[:1].upper()}{c.answer[1:]} {told[1]}.")
            for c in (case, wrong)
        ]
    return [case, wrong]


def _alike(a: Sequence[str], b: Sequence[str]) -> bool:
    return bool(set(" ".join(a).lower().split()) & set(" ".join(b).lower().split()) - {"the", "a"})


def _some(values: Sequence[Any], most: int, name: Callable[[Any], str]) -> list[Any]:
    """At most `most` of them, drawn by hash."""
    return sorted(values, key=lambda v: hashlib.md5(name(v).encode()).digest())[:most]


def _pick(values: Sequence[str], key: str) -> str:
    return random.Random(key).choice(values)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    opened = gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open()
    with opened as lines:
        yield from (json.loads(line) for line in lines if line.strip())
