"""Small worlds and scripted readers for tests of the graph's rungs."""

from __future__ import annotations

from pathlib import Path

from domainlm.asking import Allowance
from domainlm.models.fake import FakeModel
from domainlm.rag.stages import Resources
from domainlm.schema import Chat, Chunk, Document
from tests.unit.corpora import resources_of
from tests.unit.test_graph import chunk

MANY = 10**6


def told(chat: Chat) -> str:
    """A reader that says who met whom, once a sentence."""
    text = chat[-1].content.removeprefix("Passage: ")
    lines = []
    for sentence in text.split("."):
        words = [w for w in sentence.split() if w[0].isupper()]
        lines += [f"{a} | met | {b}" for a, b in zip(words, words[1:], strict=False)]
    return "\n".join(lines)


def everything() -> Allowance:
    return Allowance(MANY, MANY)


def two_worlds() -> list[Chunk]:
    music = ["Clara Haas plays Violin", "Violin and Piano", "Clara Haas met Piano Trio"]
    boats = ["Fritz Voss sails Schooner", "Schooner and Harbour", "Fritz Voss met Harbour Pilot"]
    return [
        chunk(f"{kind}{n}", f"{text} in {word} Hall. Then it rained.")
        for kind, texts, word in (("music", music, "Mozart"), ("boats", boats, "Neptune"))
        for n, text in enumerate(texts)
    ]


def world(folder: Path, model: FakeModel | None = None) -> Resources:
    documents = [
        Document(f"{c.doc_id}.txt", c.doc_id, c.doc_id, c.text, "text/plain", c.id)
        for c in two_worlds()
    ]
    filler = [
        Document(f"o{n}.txt", f"o{n}", f"o{n}", f"Nothing number {n}.", "text/plain", f"{n}")
        for n in range(20)
    ]
    return resources_of(folder, [*documents, *filler], model=model)
