"""Questions that need two to four documents: chains, comparisons and sums.

All documents of such a question belong to one family, so a split by document can keep families
apart without losing questions.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import datetime
from typing import Any

from recipe.documents import SourceDocument
from recipe.facts import MONTHS
from recipe.questions import Asked, names, number, phrasings

Context = dict[str, dict[str, str]]
"""What a wording is filled in with: a document's facts by its role, and derived values."""
COMPARED = ("power", "torque", "diameter", "volume", "trip", "speed")


def multi_document(documents: list[SourceDocument]) -> list[Asked]:
    """Three questions for each plant and series, two for each pair of policies and supplier."""
    families: dict[str, list[SourceDocument]] = defaultdict(list)
    for document in documents:
        families[document.record.family].append(document)
    wording = phrasings()["multi"]
    turn: Counter[str] = Counter()
    used: Counter[tuple[str, int]] = Counter()
    asked: list[Asked] = []
    for family, members in families.items():
        roles = _roles(members)
        context = {role: names(document) for role, document in roles.items()} | _derived(roles)
        for n, group in enumerate(_groups(roles)):
            row = turn[group] % len(wording[group])
            turn[group] += 1
            made = wording[group][row]
            text = made["ask"][used[group, row] % len(made["ask"])]
            used[group, row] += 1
            asked.append(_asked(f"multi-{family.lower()}-{n}", text, made, roles, context))
    return asked


def _roles(members: list[SourceDocument]) -> dict[str, SourceDocument]:
    """Members of a family by kind; two of a kind are `a` and `b`."""
    kinds = Counter(d.record.kind for d in members)
    twins = iter("ab")
    return {d.record.kind if kinds[d.record.kind] == 1 else next(twins): d for d in members}


def _groups(roles: dict[str, SourceDocument]) -> tuple[str, ...]:
    """Which lists of questions a family draws from, one question for each entry."""
    if "site" in roles:
        fourth = next(k for k in ("inspection", "email_site", "minutes") if k in roles)
        return "plant", "plant", fourth
    if "prices" in roles:
        return "series", "series", "seal"
    return ("policies", "policies") if "a" in roles else ("supplier", "supplier")


def _derived(roles: dict[str, SourceDocument]) -> Context:
    values = {role: names(document) for role, document in roles.items()}
    if "site" in roles:
        incident, contract = values["incident"], values["contract"]
        total = number(contract["fee"]) + number(incident["cost"])
        earlier = _date(incident["date"]) < _date(contract["signed"])
        older = f"incident {incident['number']}" if earlier else f"agreement {contract['number']}"
        return {"made": {"total": f"EUR {total:,.0f}", "older": older}}
    if "prices" in roles:
        return {fact: _compared(values["a"], values["b"], fact) for fact in COMPARED}
    if "a" in roles:
        first = min((values["a"], values["b"]), key=lambda v: _date(v["effective"]))
        return {"made": {"first": f"the {first['topic_name']}"}}
    return {}


def _compared(a: dict[str, str], b: dict[str, str], fact: str) -> dict[str, str]:
    small, big = sorted((a, b), key=lambda v: number(v[fact]))
    gap = number(big[fact]) - number(small[fact])
    return {"small": small["model"], "big": big["model"], "gap": f"{gap:,.0f}"}


def _date(text: str) -> datetime:
    day, month, year = text.split()
    return datetime(int(year), MONTHS.index(month) + 1, int(day))


def _asked(
    name: str, text: str, made: dict[str, Any], roles: dict[str, SourceDocument], context: Context
) -> Asked:
    # A role that the wording does not name is no gold document, even if its fact would do.
    facts = [f for f in made["facts"] if f[1] != "seal" or f"{{{f[0]}[" in text]
    return Asked(
        id=name,
        text=text.format(**context),
        references=(made["answer"].format(**context),),
        task="multi_document",
        doc_ids=tuple(dict.fromkeys(roles[role].path for role, _ in facts)),
        evidence=tuple(dict.fromkeys(roles[role].evidence[fact] for role, fact in facts)),
    )
