"""Writes the questions about single documents, and those that no document answers.

Phrasings come from `templates/questions_*.yaml`. The same fact is asked of several documents in
several wordings, so a model can learn how such facts are answered and still has to find them.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import yaml

from recipe.documents import TEMPLATES, SourceDocument
from recipe.facts import SEED

FACTS_ASKED = {
    "contract": 3,
    "site": 2,
    "incident": 2,
    "inspection": 2,
    "email_site": 2,
    "minutes": 2,
    "manual": 3,
    "prices": 3,
    "policy": 1,
    "supplier": 2,
    "email_supplier": 2,
}
"""Extractive questions for each document of a kind; policies get two of their own on top."""
CLOSED_ASKED = {"inspection": 2}
TOPICS = {
    "travel": ("business travel policy", "Who must approve business trips abroad?"),
    "expenses": ("expenses policy", "Who approves expense claims of more than EUR 400?"),
    "lockout": ("lock-out and isolation procedure", "Who issues permits for isolated machines?"),
    "overwater": ("rules for work over water", "Who must release work over the headrace?"),
    "procurement": ("procurement policy", "Who signs framework agreements?"),
    "gifts": ("policy on gifts and conduct", "To whom are conflicts of interest declared?"),
    "leave": ("leave policy", "Who approves annual leave?"),
    "training": ("training rules", "Who approves the training plan for apprentices?"),
}
KINDS = ("crossflow turbine", "double-regulated bulb turbine", "impulse turbine", "screw turbine")
YES_NO = ("Yes", "No")


@dataclass(frozen=True)
class Asked:
    """One line of questions.jsonl."""

    id: str
    text: str
    references: tuple[str, ...]
    task: str
    doc_ids: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()

    def line(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


@cache
def phrasings() -> dict[str, Any]:
    """The wording of all questions."""
    loaded: dict[str, Any] = {}
    for path in sorted(TEMPLATES.glob("questions_*.yaml")):
        loaded |= yaml.safe_load(path.read_text(encoding="utf-8"))
    return loaded


def names(document: SourceDocument) -> dict[str, str]:
    """What a question about this document may be filled in with."""
    values = dict(document.record.values)
    if document.record.kind == "policy":
        values["topic_name"], values["approver_question"] = TOPICS[document.record.slug]
    return values


def number(text: str) -> float:
    """The first number of a value: `EUR 12,400` is 12400."""
    found = re.search(r"\d[\d,]*(?:\.\d+)?", text)
    if not found:
        raise ValueError(f"{text!r} has no number")
    return float(found[0].replace(",", ""))


def extractive(documents: list[SourceDocument]) -> list[Asked]:
    """Short facts, in the words of one document."""
    wording = phrasings()["extractive"]
    used: Counter[tuple[str, str]] = Counter()
    seen: Counter[str] = Counter()
    asked: list[Asked] = []
    for document in documents:
        kind = document.record.kind
        wanted = wording[kind]
        known = [f for f in wanted if f in document.evidence]
        first = seen[kind] * FACTS_ASKED[kind]
        seen[kind] += 1
        facts = [known[(first + k) % len(known)] for k in range(FACTS_ASKED[kind])]
        for fact in facts:
            variants = wanted[fact]
            text = variants[used[kind, fact] % len(variants)]
            used[kind, fact] += 1
            asked.append(_about(document, fact, text))
        if kind == "policy":
            own = wording["policy_own"][document.record.slug]
            asked += [_about(document, fact, text) for fact, text in list(own.items())[:2]]
    return asked


def _about(document: SourceDocument, fact: str, text: str) -> Asked:
    filled = text.format(**names(document))
    return Asked(
        id=f"extractive-{document.record.kind}-{fact}-{document.record.slug}".replace("_", "-"),
        text=filled.format(**names(document)),
        references=(document.record.values[fact],),
        task="extractive",
        doc_ids=(document.path,),
        evidence=(document.evidence[fact],),
    )


def closed_form(documents: list[SourceDocument]) -> list[Asked]:
    """Yes or no, or one of a few categories; right and wrong values alternate."""
    wording = phrasings()["closed"]
    rng = random.Random(f"{SEED}/closed")
    seen: Counter[str] = Counter()
    used: Counter[tuple[str, int]] = Counter()
    yes: Counter[str] = Counter()
    asked: list[Asked] = []
    for document in documents:
        kind = document.record.kind
        if kind == "policy":
            asked.append(_policy_rule(document))
            continue
        rows = wording[kind]
        many = CLOSED_ASKED.get(kind, 1)
        for k in range(many):
            row = (seen[kind] * many + k) % len(rows)
            fact, mode, variants = rows[row]
            text = variants[used[kind, row] % len(variants)]
            used[kind, row] += 1
            value = document.record.values[fact]
            others = sorted({d.record.values[fact] for d in documents if d.record.kind == kind})
            others.remove(value)
            want = yes[kind] % 2 == 0
            x, answer, choices = _closed(mode, value, others, want, rng)
            yes[kind] += choices == YES_NO
            asked.append(
                Asked(
                    id=f"closed-{kind}-{fact}-{document.record.slug}".replace("_", "-"),
                    text=text.format(x=x, **names(document)),
                    references=(answer,),
                    task="closed_form",
                    doc_ids=(document.path,),
                    evidence=(document.evidence[fact],),
                    choices=choices,
                )
            )
        seen[kind] += 1
    return asked


def _policy_rule(document: SourceDocument) -> Asked:
    text, answer, words = phrasings()["closed_policy"][document.record.slug]
    return Asked(
        id=f"closed-policy-rule-{document.record.slug}",
        text=text,
        references=(answer,),
        task="closed_form",
        doc_ids=(document.path,),
        evidence=(document.sentence(words),),
        choices=YES_NO,
    )


def _closed(
    mode: str, value: str, others: list[str], want: bool, rng: random.Random
) -> tuple[str, str, tuple[str, ...]]:
    """What to compare with, the right answer, and the choices."""
    if mode == "equal":
        return (value, "Yes", YES_NO) if want else (rng.choice(others), "No", YES_NO)
    if mode == "more":
        below = [o for o in others if number(o) < number(value)]
        above = [o for o in others if number(o) > number(value)]
        want = bool(below) and (want or not above)
        return rng.choice(below if want else above), YES_NO[not want], YES_NO
    if mode == "injury":
        return "", YES_NO[value.startswith("Nobody")], YES_NO
    if mode == "stock":
        return "", YES_NO[value != "from stock"], YES_NO
    if mode == "kinds":
        return "", next(k for k in KINDS if value.endswith(k)), KINDS
    return "", value, tuple(mode.split(","))


def summary(documents: list[SourceDocument]) -> list[Asked]:
    """Two or three sentences on one document."""
    wording = phrasings()["summary"]
    seen: Counter[str] = Counter()
    asked: list[Asked] = []
    for document in documents:
        kind = document.record.kind
        if kind not in wording:
            continue
        row = wording[kind]
        text = row["ask"][seen[kind] % len(row["ask"])]
        seen[kind] += 1
        evidence = dict.fromkeys(document.evidence[f] for f in row["facts"])
        reference = row["reference"].strip().format(**names(document))
        asked.append(
            Asked(
                id=f"summary-{kind}-{document.record.slug}".replace("_", "-"),
                text=text.format(**names(document)),
                references=(reference[0].upper() + reference[1:],),
                task="summary",
                doc_ids=(document.path,),
                evidence=tuple(evidence),
            )
        )
    return asked


def unanswerable(documents: list[SourceDocument]) -> list[Asked]:
    """Plausible questions without an answer, half of them on things that the documents treat.

    Raises:
        ValueError: a document holds words that would betray an answer.
    """
    wording = phrasings()
    everything = "\n".join(d.text for d in documents).lower()
    seen: Counter[str] = Counter()
    asked: list[Asked] = []
    for n, (kind, text, betrays) in enumerate(wording["unanswerable"]):
        subjects = [d for d in documents if d.record.kind == kind]
        subject = subjects[(seen[kind] * 5 + 2 + n) % len(subjects)]
        seen[kind] += 1
        family = [d for d in documents if d.record.family == subject.record.family]
        for document in family:
            if betrays in document.text.lower():
                raise ValueError(f"{document.path} says {betrays!r}: {text}")
        asked.append(
            Asked(
                id=f"unanswerable-{n:02d}-{subject.record.slug}",
                text=text.format(**names(subject)),
                references=(),
                task="unanswerable",
            )
        )
    other = zip(wording["unanswerable_other"], wording["unanswerable_other_absent"], strict=True)
    for n, (text, absent) in enumerate(other):
        if absent.lower() in everything:
            raise ValueError(f"a document says {absent!r}: {text}")
        asked.append(Asked(f"unanswerable-other-{n:02d}", text, (), "unanswerable"))
    return asked
