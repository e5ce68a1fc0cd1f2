"""A small mill by a river, whose texts lead to their chunks by questions and by trees."""

from __future__ import annotations

from pathlib import Path

from domainlm.artifacts import Log
from domainlm.models.fake import FakeModel
from domainlm.rag.derived import Written
from domainlm.rag.pipeline import Retrieval
from domainlm.rag.stages import Resources
from domainlm.schema import Document, Passage, Question, RagSpec, StageSpec
from tests.unit.corpora import resources_of

TEXTS = {
    "valve.txt": "The relief fitting opens at nine bar. It is made of brass. Nobody touches it.",
    "pump.txt": "The pump starts at six. It is loud. Its seal wears out each year.",
    "river.txt": "The river freezes in January. Boats rest. Skates are lent at the mill.",
    "mill.txt": "The mill grinds rye. Its wheel turns slowly. The miller sleeps at noon.",
}
ASKED = {
    "relief fitting": "1. Which pressure limit protects the fitting?\n2. Is it brass?",
    "pump starts": "When does the pump start?\nWhat about elephants?",
    "river freezes": "When is the river frozen?",
    "mill grinds": "Which grain does the mill grind?",
}
PLAIN = StageSpec("hybrid")


def documents_of(texts: dict[str, str]) -> list[Document]:
    return [Document(n, n[:-4], n, t, "text/plain", n + t) for n, t in texts.items()]


def resources_with(
    folder: Path,
    model: FakeModel | None = None,
    texts: dict[str, str] = TEXTS,
    examples: tuple[Question, ...] = (),
) -> Resources:
    return resources_of(folder, documents_of(texts), model=model, examples=examples)


def retrieval(resources: Resources, use: str, **settings: object) -> Retrieval:
    return Retrieval(RagSpec((), (StageSpec(use, dict(settings)),), (), 2), resources)


def verbatim(passages: list[Passage], texts: dict[str, str] = TEXTS) -> bool:
    return all(texts[p.doc_id][p.start : p.end] == p.text for p in passages)


def found(r: Retrieval, text: str) -> list[str]:
    passages = r(Question("q", text))
    assert verbatim(passages)
    return [p.doc_id for p in passages]


TOPICS = ("apple pear plum orchard", "bolt nut gear machine", "rain snow wind storm")


def forest(n: int = 8) -> dict[str, str]:
    """`n` documents on each of three topics."""
    return {
        f"{topic.split()[0]}{i}.txt": f"Note {topic} {topic} number{i}. It is {topic} item{i}."
        for topic in TOPICS
        for i in range(n)
    }


def records(folder: Path, stage: str) -> list[Written]:
    return [r for p in (folder / "index").glob(f"{stage}-*.jsonl") for r in Log(p, Written).read()]
