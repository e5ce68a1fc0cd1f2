"""Turns records into documents: picks wordings, fills in facts, and notes where each is stated."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from recipe.facts import SEED, Record
from recipe.facts_company import PARTS

TEMPLATES = Path(__file__).with_name("templates")
FORMATS = {
    "site": ("html", "md", "docx"),
    "contract": ("pdf", "docx", "pdf", "txt"),
    "incident": ("md", "pdf", "docx", "html"),
    "inspection": ("pdf", "html"),
    "email_site": ("eml",),
    "minutes": ("txt",),
    "manual": ("pdf", "html", "md"),
    "prices": ("xlsx", "csv"),
    "policy": ("pdf", "docx", "html", "md"),
    "supplier": ("docx", "pdf"),
    "email_supplier": ("eml",),
}
FOLDERS = {
    "site": "sites",
    "contract": "contracts",
    "incident": "incidents",
    "inspection": "inspections",
    "email_site": "mail",
    "minutes": "minutes",
    "manual": "manuals",
    "prices": "price_lists",
    "policy": "policies",
    "supplier": "suppliers",
    "email_supplier": "mail",
}
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z{\[\"])")
_CHOICE = re.compile(r"\[([^\[\]]+\|[^\[\]]*)\]")
_FIELD = re.compile(r"{(\w+)}")


@dataclass(frozen=True)
class Table:
    """A table with a header row; `facts` names what a row states where only the table says so."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    facts: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Section:
    """A heading (may be empty), its paragraphs, and a table below them."""

    heading: str
    paragraphs: tuple[str, ...]
    table: Table | None = None


@dataclass(frozen=True)
class SourceDocument:
    """A document before rendering.

    `path` is relative to the documents folder; `evidence` maps each stated fact to the sentence
    that states it.
    """

    path: str
    title: str
    record: Record
    sections: tuple[Section, ...]
    evidence: dict[str, str] = field(default_factory=dict)

    @property
    def format(self) -> str:
        """The file's extension without the dot."""
        return self.path.rsplit(".", 1)[1]

    @property
    def text(self) -> str:
        """Everything that a reader of the file can see, as plain text."""
        parts = [self.title]
        for section in self.sections:
            parts += [section.heading, *section.paragraphs] if section.heading else [
                *section.paragraphs
            ]  # fmt: skip
            if section.table:
                parts += [" ".join(row) for row in (section.table.header, *section.table.rows)]
        return "\n\n".join(parts)

    def sentence(self, words: str) -> str:
        """The sentence that begins with these words.

        Raises:
            ValueError: there is none.
        """
        for section in self.sections:
            for paragraph in section.paragraphs:
                for sentence in _SENTENCE_END.split(paragraph):
                    if sentence.startswith(words):
                        return sentence
        raise ValueError(f"{self.path} has no sentence that begins with {words!r}")


def build(records: list[Record]) -> list[SourceDocument]:
    """One document for each record, in the same order."""
    counts: dict[str, int] = {}
    earlier: dict[str, list[tuple[int, ...]]] = {}
    built: list[SourceDocument] = []
    for record in records:
        n = counts.get(record.kind, 0)
        counts[record.kind] = n + 1
        formats = FORMATS[record.kind]
        path = f"{FOLDERS[record.kind]}/{record.slug}.{formats[n % len(formats)]}"
        if record.kind == "prices":
            built.append(_price_list(path, record))
        else:
            built.append(_written(path, record, n, earlier.setdefault(record.kind, [])))
    return built


def _written(path: str, record: Record, n: int, earlier: list[tuple[int, ...]]) -> SourceDocument:
    template = _template(record)
    rng = random.Random(f"{SEED}/{path}")
    titles = template["title"]
    title = titles[n % len(titles)] if isinstance(titles, list) else titles
    evidence: dict[str, str] = {}
    sections: list[Section] = []
    variants = [_variants(part) for part in template["sections"]]
    picks = iter(_unlike([len(v) for part in variants for v in part], earlier, rng))
    for part, slots in zip(template["sections"], variants, strict=True):
        heading = part["heading"]
        raw = "\n\n".join(slot[next(picks)] for slot in slots).split("\n\n")
        sections.append(
            Section(
                rng.choice(heading) if isinstance(heading, list) else heading,
                tuple(_fill(paragraph, record.values, rng, evidence) for paragraph in raw),
                _TABLES[part["table"]](record.values) if "table" in part else None,
            )
        )
    # Page text keeps no cell borders; the other formats are read with a bar between cells.
    between = " " if path.endswith((".pdf", ".txt")) else " | "
    for table in filter(None, (section.table for section in sections)):
        evidence |= {name: between.join(table.rows[row]) for name, row in table.facts.items()}
    if record.kind.startswith("email"):
        last = sections[-1]
        signed = (*last.paragraphs, record.values["sender"])
        sections[-1] = Section(last.heading, signed)
    return SourceDocument(path, title.format(**record.values), record, tuple(sections), evidence)


def _variants(part: dict[str, Any]) -> list[list[str]]:
    """Slots of a section, each with its alternative wordings; `mix` makes a slot of each
    paragraph.
    """
    texts = part["text"] if isinstance(part["text"], list) else [part["text"]]
    if not part.get("mix"):
        return [texts]
    return [list(slot) for slot in zip(*(text.split("\n\n") for text in texts), strict=True)]


def _unlike(
    sizes: list[int], earlier: list[tuple[int, ...]], rng: random.Random
) -> tuple[int, ...]:
    """One wording for each slot, shared with earlier documents of the kind as little as possible;
    documents of one mould would else count as near-duplicates of each other.
    """
    drawn = [tuple(rng.randrange(size) for size in sizes) for _ in range(200)]
    shared = [[sum(a == b for a, b in zip(d, e, strict=True)) for e in earlier] for d in drawn]
    best = min(range(len(drawn)), key=lambda i: (max(shared[i], default=0), sum(shared[i])))
    earlier.append(drawn[best])
    return drawn[best]


def _template(record: Record) -> dict[str, Any]:
    if record.kind == "policy":
        loaded = yaml.safe_load((TEMPLATES / "policies.yaml").read_text(encoding="utf-8"))
        chosen: dict[str, Any] = loaded[record.slug]
        return chosen
    name = f"{record.kind}.yaml"
    template: dict[str, Any] = yaml.safe_load((TEMPLATES / name).read_text(encoding="utf-8"))
    return template


def _fill(raw: str, values: dict[str, str], rng: random.Random, evidence: dict[str, str]) -> str:
    """Resolve wordings, then fill sentence by sentence so that each fact's sentence is known."""
    chosen = _CHOICE.sub(lambda m: rng.choice(m[1].split("|")), raw.strip())
    sentences: list[str] = []
    for sentence in _SENTENCE_END.split(chosen):
        filled = sentence.format(**values)
        filled = filled[0].upper() + filled[1:]
        sentences.append(filled)
        for name in _FIELD.findall(sentence):
            evidence.setdefault(name, filled)
    return " ".join(sentences)


# --- tables ---------------------------------------------------------------------------------


def _rates(v: dict[str, str]) -> Table:
    return Table(
        ("Qualification", "Hourly rate"),
        (
            ("Technician", v["rate"]),
            ("Fitter", v["rate_fitter"]),
            ("Engineer", v["rate_engineer"]),
            ("Helper", v["rate_helper"]),
            ("Technician at night", v["rate_night"]),
        ),
        {"rate_night": 4},
    )


def _site_data(v: dict[str, str]) -> Table:
    return Table(
        ("Item", "Value"),
        (
            ("Owner", v["owner"].removeprefix("the ")),
            ("Turbine series", v["turbine"]),
            ("Gross head", v["head"]),
            ("In operation since", v["commissioned"]),
            ("Grid voltage", v["voltage"]),
            ("Licence", v["licence"]),
        ),
    )


def _incident_data(v: dict[str, str]) -> Table:
    return Table(
        ("Report", "Plant", "Date", "Class", "Standstill"),
        ((v["number"], v["site"], v["date"], v["severity"], v["downtime"]),),
    )


def _efficiency(v: dict[str, str]) -> Table:
    return Table(
        ("Opening", "Efficiency"),
        (
            ("100 percent", v["efficiency"]),
            ("80 percent", v["part_high"]),
            ("60 percent", v["part_mid"]),
            ("40 percent", v["part_low"]),
        ),
        {"part_low": 3},
    )


def _manual_data(v: dict[str, str]) -> Table:
    return Table(
        ("Quantity", "Value"),
        (
            ("Rated power", v["power"]),
            ("Rated head", v["head"]),
            ("Rated speed", v["speed"]),
            ("Runaway speed", v["runaway"]),
            ("Runner diameter", v["diameter"]),
            ("Weight without oil", v["weight"]),
            ("First serial number", f"{v['edition']}-{v['serial']}"),
        ),
        {"weight": 5},
    )


_TABLES = {
    "rates": _rates,
    "site_data": _site_data,
    "incident_data": _incident_data,
    "efficiency": _efficiency,
    "manual_data": _manual_data,
}


def _price_list(path: str, record: Record) -> SourceDocument:
    v = record.values
    evidence: dict[str, str] = {}
    rows: list[tuple[str, ...]] = []
    for n in range(len(PARTS)):
        part, number, price = v[f"part{n}"], v[f"part{n}_no"], v[f"part{n}_price"]
        weeks = v[f"part{n}_weeks"]
        when = "available from stock" if weeks == "from stock" else f"delivered in {weeks}"
        label = f"{part} for {v['series']} machines, {number}: {price} each, {when}."
        label = label[0].upper() + label[1:]
        rows.append((number, part, price.removeprefix("EUR "), weeks, label))
        for name in ("", "_no", "_price", "_weeks"):
            evidence[f"part{n}{name}"] = label
    header = ("Part number", "Description", "Price in EUR", "Delivery", "Label text")
    sections = [Section("Prices", (), Table(header, tuple(rows)))]
    if path.endswith(".xlsx"):
        terms = (
            f"Prices of the {v['series']} list are valid from {v['valid']} and do not contain tax.",
            f"The minimum order value for {v['series']} parts is {v['minimum']}.",
            f"Freight is charged at {v['freight']} per parcel of {v['series']} parts.",
            f"Orders of {v['series']} parts above {v['threshold']} earn a discount of "
            f"{v['discount']}.",
            f"Unused {v['series']} parts are taken back within {v['returns']} of delivery.",
            f"Questions about {v['series']} parts are answered by {v['contact']}.",
        )
        names = ("valid", "minimum", "freight", "discount", "returns", "contact")
        evidence |= dict(zip(names, terms, strict=True))
        table = Table(("Topic", "Terms of sale"), tuple(zip(_TOPICS, terms, strict=True)))
        sections.append(Section("Terms", (), table))
    title = f"Spare parts price list, {v['series']} series"
    return SourceDocument(path, title, record, tuple(sections), evidence)


_TOPICS = ("Validity", "Minimum", "Freight", "Discount", "Returns", "Contact")
