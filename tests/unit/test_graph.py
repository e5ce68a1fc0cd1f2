"""Entities by spelling, counted support, reversible merges, and the walk."""

from __future__ import annotations

import hashlib
import random
import sqlite3
from pathlib import Path

import pytest

from domainlm.errors import DataError
from domainlm.graph.entities import mentions, normalise, subject
from domainlm.graph.export import write_csv, write_graphml
from domainlm.graph.store import Graph
from domainlm.graph.walk import Walker
from domainlm.schema import Chunk


def chunk(doc: str, text: str, title: str = "") -> Chunk:
    # As in an index, the id covers everything that the graph reads.
    key = hashlib.sha256(f"{title}|{text}".encode()).hexdigest()[:8]
    return Chunk(f"{doc}@{key}", doc, text, 0, len(text), 0, len(text), title)


class Source:
    """Chunks as an index holds them."""

    def __init__(self, chunks: list[Chunk]) -> None:
        self.chunks = {c.id: c for c in chunks}

    def ids_by_document(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for c in self.chunks.values():
            found.setdefault(c.doc_id, []).append(c.id)
        return found

    def get(self, ids: list[str]) -> list[Chunk]:
        return [self.chunks[i] for i in ids]


def entities(text: str, kind: str = "") -> set[str]:
    return {m.entity for m in mentions(text) if not kind or m.kind == kind}


# --- entities ---


def test_names_dates_amounts_and_terms() -> None:
    text = (
        'In 1994 the Bank of the West (the "Lender") and Acme Inc. paid $5.2 million to Mr. Smith '
        "on 14 March 1993. However, the Müller's share was 12 %."
    )
    assert {"bank of the west", "acme inc", "mr smith"} <= entities(text, "name")
    assert entities(text, "term") == {"lender"}
    assert entities(text, "date") == {"1994", "14 march 1993"}
    assert entities(text, "amount") == {"5.2 million", "12"}


def test_a_sentence_ends_a_name() -> None:
    assert "marks & spencer" not in entities("They bought from Marks & Spencer.")
    assert "marks spencer" in entities("They bought from Marks & Spencer.")
    found = entities("She lived in Paris. London came later. He met Dr. Brown.")
    assert {"paris", "london", "dr brown"} <= found
    assert "paris london" not in found


def test_spans_are_verbatim() -> None:
    text = "  “Olga’s Café”, of Łódź and Brno on the Main."
    for m in mentions(text):
        assert normalise(text[m.start : m.end]) == m.entity


@pytest.mark.parametrize("text", ["", "…", "the of and", "\x00", "A" * 100_000, "( " * 5_000])
def test_odd_text_is_survived(text: str) -> None:
    assert all(m.end > m.start for m in mentions(text))


def test_subject_drops_asides() -> None:
    assert subject("Polish-Russian War (film)") == "polish russian war"
    assert subject("(2001)") == "2001"


# --- counted support ---

WORDS = "Anna Bruno Carla Dresden Essen Fulda Gotha Halle Ilmenau Jena Kassel Lübeck".split()


def some_chunks(rng: random.Random, doc: str) -> list[Chunk]:
    texts = (" and ".join(rng.sample(WORDS, 3)) + f" met in {n}." for n in range(rng.randint(1, 3)))
    return [chunk(doc, f"{n} {text}", rng.choice(WORDS)) for n, text in enumerate(texts)]


def test_any_history_equals_a_rebuild(tmp_path: Path) -> None:
    rng = random.Random(0)
    graph = Graph(tmp_path / "graph.sqlite")
    graph.merge("Anna", "Bruno", "test")
    held: dict[str, list[Chunk]] = {}
    for _ in range(40):
        doc = f"d{rng.randrange(6)}"
        if doc in held and rng.random() < 0.4:
            del held[doc]
        else:
            held[doc] = some_chunks(rng, doc)
        source = Source([c for chunks in held.values() for c in chunks])
        delta = graph.sync(source)
        assert delta.added + delta.kept == len(source.chunks) == len(graph)
        rebuilt = Graph()
        rebuilt.merge("Anna", "Bruno", "test")
        rebuilt.sync(source)
        assert graph.dump() == rebuilt.dump()
    assert len(graph.dump()) > 500


def test_support_is_counted_and_goes_with_its_chunks() -> None:
    graph = Graph()
    first, second = chunk("a", "Dresden met Essen."), chunk("b", "Dresden slept.")
    graph.add([first, second])
    assert graph.support("Dresden") == (first.id, second.id)
    assert [e.support for e in graph.edges() if (e.a, e.b) == ("dresden", "essen")] == [(first.id,)]
    graph.remove([first.id])
    assert graph.support("dresden") == (second.id,)
    assert graph.support("Essen") == ()
    assert not list(graph.edges())


def test_merges_are_listed_and_undone() -> None:
    graph = Graph()
    graph.add([chunk("a", "Acme Inc. grew."), chunk("b", "Acme shrank.")])
    before = graph.dump()
    graph.merge("Acme Inc.", "Acme", "same company")
    assert len(graph.support("Acme")) == 2 == len(graph.support("Acme Inc"))
    assert [m.alias for m in graph.merges()] == ["acme inc"]
    with pytest.raises(DataError, match="undo that merge first"):
        graph.merge("Acme Inc.", "Other", "")
    with pytest.raises(DataError, match="one entity already"):
        graph.merge("Acme", "Acme Inc.", "")
    graph.unmerge("Acme Inc.")
    assert graph.dump() == before
    with pytest.raises(DataError, match="was not merged"):
        graph.unmerge("Acme Inc.")


def test_chained_merges_meet() -> None:
    graph = Graph()
    graph.add([chunk("a", "Anna."), chunk("b", "Bruno."), chunk("c", "Carla.")])
    graph.merge("Anna", "Bruno", "")
    graph.merge("Bruno", "Carla", "")
    assert len(graph.support("Anna")) == 3
    # A question that uses the first name reaches what the last one stands for.
    assert len(Walker(graph, max_share=1.0).rank({}, ["anna"])) == 3


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "graph.sqlite"
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(DataError, match="delete the file"):
        Graph(path)
    path.unlink()
    with sqlite3.connect(path) as other:
        other.execute("PRAGMA user_version=99")
    with pytest.raises(DataError, match="format 99"):
        Graph(path)


# --- the walk ---


def test_a_second_hop_is_found() -> None:
    graph = Graph()
    film = chunk("film", "The film was directed by Olga Nagy.", "Night Train")
    person = chunk("person", "She was born in Szeged to two teachers.", "Olga Nagy")
    others = [chunk(f"o{n}", f"Nothing of {w}.", w) for n, w in enumerate(WORDS)]
    graph.add([film, person, *others])
    ranked = Walker(graph).rank({film.id: 1.0}, [])
    assert [i for i, _ in ranked][:2] == [film.id, person.id]
    # And through a merge.
    graph.remove([person.id])
    graph.add([chunk("person", "She was born in Szeged.", "O. Nagy")])
    assert len(Walker(graph).rank({film.id: 1.0}, [])) == 1
    graph.merge("O. Nagy", "Olga Nagy", "initial")
    assert len(Walker(graph).rank({film.id: 1.0}, [])) == 2


def test_the_walk_keeps_its_weight_and_breaks_ties_by_id() -> None:
    graph = Graph()
    graph.add([chunk("b", "Gotha met Halle."), chunk("a", "Gotha met Halle.")])
    both = sorted(graph.support("Gotha"))
    assert [i for i, _ in Walker(graph).rank(dict.fromkeys(both, 1.0), [])] == both
    assert Walker(Graph()).rank({"gone": 1.0}, ["nobody"]) == []


# --- export ---


def test_exports_hold_every_node_and_edge(tmp_path: Path) -> None:
    import csv
    import xml.etree.ElementTree as ET

    graph = Graph()
    graph.add([chunk("a", 'Dresden met Essen & "<b>Fulda</b>".', "=HYPERLINK(1)")])
    write_graphml(graph, tmp_path / "g.graphml")
    tree = ET.parse(tmp_path / "g.graphml")
    tag = "{http://graphml.graphdrawing.org/xmlns}"
    names = {d.text for d in tree.iter(f"{tag}data") if d.get("key") == "name"}
    assert {"dresden", "essen"} <= names
    assert len(list(tree.iter(f"{tag}node"))) == len(list(graph.nodes())) + len(graph)
    nodes, edges = write_csv(graph, tmp_path / "csv")
    with nodes.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert {r[":LABEL"] for r in rows} == {"Entity", "Chunk"}
    with edges.open(encoding="utf-8", newline="") as lines:
        kinds = {r[":TYPE"] for r in csv.DictReader(lines)}
    assert kinds == {"MENTIONS", "WITH", "ABOUT"}
