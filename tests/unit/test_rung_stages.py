"""The stages that climb the graph: triples, communities, the global reader, quotes and climbing."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from domainlm import ladder
from domainlm.asking import Allowance
from domainlm.cli import app
from domainlm.config import Config, make_config
from domainlm.errors import ConfigError, ModelError
from domainlm.graph import triples
from domainlm.graph.communities import communities_of
from domainlm.graph.entities import normalise
from domainlm.graph.store import Graph
from domainlm.models.base import load_chat_model, record_calls
from domainlm.models.fake import FakeModel
from domainlm.rag.communities import by_community, summarise
from domainlm.rag.pipeline import Retrieval
from domainlm.rag.reading import with_documents
from domainlm.rag.stages import Resources
from domainlm.rag.trace import record_trace
from domainlm.schema import (
    Chat,
    Document,
    Generation,
    Question,
    RagSpec,
    Sampling,
    StageSpec,
    TraceStep,
)
from tests.unit.corpora import resources_of
from tests.unit.rung_worlds import MANY, everything, told, two_worlds, world
from tests.unit.test_graph import chunk


def ask(
    resources: Resources, text: str, k: int = 4, use: str = "triples", **settings: object
) -> tuple[list[str], TraceStep]:
    retrieval = Retrieval(RagSpec(retrieve=(StageSpec(use, settings),), passages=k), resources)
    with record_calls(), record_trace() as steps:
        found = retrieval(Question("q", text))
    for p in found:
        assert resources.documents[p.doc_id].text[p.start : p.end] == p.text
    return [p.chunk_id for p in found], steps[0]


def plain(folder: Path, text: str) -> list[str]:
    return ask(world(folder), text, use="graph")[0]


QUERY = "Who plays Violin with Clara Haas?"


def test_triples_lead_the_second_walk(tmp_path: Path) -> None:
    def read(chat: Chat) -> str:
        return "Violin | belongs with | Piano" if "Violin and Piano" in chat[-1].content else ""

    model = FakeModel(read)
    resources = world(tmp_path, model)
    found, step = ask(resources, QUERY, k=6)
    assert found and not step.fallback
    assert len(model.chats) == 4 and step.tokens_in > 0
    again, step = ask(replace(resources, cache={}), QUERY, k=6)
    # In memory the graph is made anew; the order is a function of question and index alone.
    assert again == found


def test_what_was_asked_before_does_not_change_what_is_found(tmp_path: Path) -> None:
    resources = world(tmp_path, FakeModel(told))
    alone = ask(resources, QUERY)[0]
    other = world(tmp_path / "other", FakeModel(told))
    ask(other, "Where does Fritz Voss sail his Schooner?")
    assert ask(other, QUERY)[0] == alone


@pytest.mark.parametrize(
    ("model", "settings", "reason"),
    [
        (FakeModel(["no lines at all"]), {}, "read no triple"),
        (FakeModel(told, fail=["Passage"]), {}, "scripted failure"),
        (FakeModel(told), {"max_calls": 0}, "the cap left 4 chunks"),
        (FakeModel(told), {"token_cap": 100}, "the cap left 4"),
    ],
)
def test_without_triples_the_plain_graph_stands(
    tmp_path: Path, model: FakeModel, settings: dict[str, int], reason: str
) -> None:
    found, step = ask(world(tmp_path, model), QUERY, **settings)
    assert found == plain(tmp_path / "plain", QUERY)
    assert reason in step.fallback


def test_a_model_that_is_down_leaves_the_plain_graph(tmp_path: Path) -> None:
    class Down(FakeModel):
        def generate(self, chats: Sequence[Chat], params: Sampling) -> list[Generation]:
            raise ModelError("nobody answers")

    for use in ("triples", "communities"):
        settings = {"summaries": "model"} if use == "communities" else {}
        found, step = ask(world(tmp_path / use, Down()), QUERY, use=use, **settings)
        assert found and "nobody answers" in step.fallback
    assert ask(world(tmp_path, Down()), QUERY)[0] == plain(tmp_path / "p", QUERY)


def test_without_communities_a_hybrid_search_stands_in(tmp_path: Path) -> None:
    documents = [Document("a.txt", "a", "a", "rain fell on stones", "text/plain", "a")]
    found, step = ask(resources_of(tmp_path, documents), "rain", use="communities")
    assert len(found) == 1 and "no communities" in step.fallback


def test_communities_lead_to_their_chunks(tmp_path: Path) -> None:
    found, step = ask(world(tmp_path), "What of Schooner and Harbour?", use="communities", among=1)
    # What is left of the four places, other chunks fill.
    assert not step.fallback and [i[:5] for i in found][:3] == ["boats"] * 3 and len(found) == 4
    both, _ = ask(world(tmp_path / "b"), "What of Schooner and Harbour?", use="communities")
    # In turn: breadth before depth.
    assert [i[:5] for i in both] == ["boats", "music"] * 2


def test_a_scope_confines_communities(tmp_path: Path) -> None:
    resources = world(tmp_path)
    spec = RagSpec(retrieve=(StageSpec("communities"),), passages=5)
    found = Retrieval(spec, resources)(Question("q", "Schooner?", scope=("music0.txt",)))
    assert {p.doc_id for p in found} == {"music0.txt"}
    # No community tells of this one.
    found = Retrieval(spec, resources)(Question("q", "Nothing?", scope=("o1.txt",)))
    assert {p.doc_id for p in found} == {"o1.txt"}


@pytest.mark.parametrize(
    ("make", "settings", "reason"),
    [
        (lambda: FakeModel(["Buy gold now."]), {}, "support nothing in 2"),
        (lambda: FakeModel(["Violin."]), {"max_calls": 1}, "the cap left 1"),
        (lambda: FakeModel(["x"], fail=["Subjects"]), {}, "failed on 2"),
    ],
)
def test_summaries_that_are_missing_are_extracts(
    tmp_path: Path, make: Callable[[], FakeModel], settings: dict[str, int], reason: str
) -> None:
    found, step = ask(
        world(tmp_path, make()), "Schooner", use="communities", summaries="model", **settings
    )
    assert reason in step.fallback and found[0].startswith("boats")


@pytest.mark.parametrize(
    ("use", "settings"),
    [
        ("graph", {"synonyms": 0.5}),
        ("triples", {"read": 0}),
        ("triples", {"evidence": 2.0}),
        ("communities", {"summaries": "none"}),
        ("communities", {"among": 0}),
    ],
)
def test_wrong_settings_are_refused(tmp_path: Path, use: str, settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        ask(world(tmp_path), QUERY, use=use, **settings)


def test_the_global_reader_maps_communities_and_reduces(tmp_path: Path) -> None:
    def answer(chat: Chat) -> str:
        shown = chat[-1].content
        if "Violin" in shown and "Schooner" in shown:
            return "Clara Haas plays Violin, Fritz Voss sails Schooner."
        said = "Clara Haas plays Violin." if "Violin" in shown else "Fritz Voss sails Schooner."
        return said

    model = FakeModel(answer)
    resources = world(tmp_path)
    spec = RagSpec(retrieve=(StageSpec("communities"),), passages=6, reader="global")
    retrieval = Retrieval(spec, resources)
    arm = with_documents(
        "rag", model, Sampling(), retrieval, resources.documents, by_community(resources)
    )
    (made,) = arm.answer([Question("q", "What do the people here do?")])
    assert len(model.chats) == 3  # two communities, then one answer
    assert made.text == "Clara Haas plays Violin, Fritz Voss sails Schooner."


def test_summaries_are_kept_by_what_they_were_made_from(tmp_path: Path) -> None:
    resources = world(tmp_path, FakeModel(["Clara Haas plays Violin in Mozart Hall."]))
    index, graph, model = resources.index, Graph(), FakeModel(["Violin and Piano in Mozart Hall."])
    graph.sync(index.store)
    found = communities_of(graph)
    report, texts = summarise(graph, index, found, model, Allowance(1, MANY))
    assert (report.asked, report.left, len(texts)) == (1, 1, 2)
    report, texts = summarise(graph, index, found, model, everything())
    assert (report.asked, report.left) == (1, 0)
    assert sorted(map(bool, texts)) == [False, True]
    # A document of one community goes, and with it this summary; a rebuild holds the same.
    gone = next(i for i in sorted(graph.contents()) if i.startswith("boats"))
    graph.remove([gone])
    assert graph.spent("summary", "fake, prompt 1").calls == 1
    index.store.delete([gone])
    report, _ = summarise(graph, index, communities_of(graph), model, everything())
    rebuilt = Graph()
    rebuilt.sync(index.store)
    summarise(rebuilt, index, communities_of(rebuilt), model, everything())
    assert graph.dump() == rebuilt.dump()


# --- quotes, and climbing ---


def domain(folder: Path) -> Config:
    (folder / "docs").mkdir(parents=True)
    for c in [*two_worlds(), *(chunk(f"o{n}", f"Nothing number {n}.") for n in range(20))]:
        (folder / "docs" / f"{c.doc_id}.txt").write_text(c.text)
    (folder / "q.jsonl").write_text("")
    settings = {"documents": "docs", "questions": "q.jsonl", "arms": ["base", "rag"]}
    return make_config({**settings, "model": "fake", "embedder": "fake"}, folder)


def test_a_quote_is_what_climbing_then_takes(tmp_path: Path) -> None:
    config = domain(tmp_path)
    synonyms, triple, community = ladder.quotes(config, MANY, MANY)
    assert synonyms.calls == 0 < synonyms.tokens_in
    assert (triple.calls, community.calls, triple.left) == (26, 2, 0)
    assert triple.usd > 0 and triple.seconds > 0
    _, capped, _ = ladder.quotes(config, 10, MANY)
    assert (capped.calls, capped.left) == (10, 16)
    assert capped.tokens_in < triple.tokens_in
    report = ladder.climb(config, "triples", 10, MANY)
    assert (report.asked, report.left) == (10, 16)
    # What is done is not quoted again, nor asked again.
    _, rest, _ = ladder.quotes(config, MANY, MANY)
    assert rest.calls == 16
    # A word is a token here: what was read corrects the guess from characters.
    guess = rest.tokens_in
    second = ladder.climb(config, "triples", MANY, MANY)
    assert second.asked == 16 and second.tokens_in == pytest.approx(guess, rel=0.1)
    assert ladder.climb(config, "triples", MANY, MANY).asked == 0
    assert ladder.climb(config, "communities", MANY, MANY).asked == community.calls


def test_the_command_line_quotes_and_climbs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    domain(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("COLUMNS", "200")
    path = tmp_path / "c.yaml"
    path.write_text(
        "documents: docs\nquestions: q.jsonl\narms: [base, rag]\nmodel: fake\nembedder: fake\n"
    )
    invoke = CliRunner().invoke
    quoted = invoke(app, ["graph", str(path), "--quote", "--max-calls", "3", "--json"])
    assert [q["calls"] for q in json.loads(quoted.stdout)] == [0, 3, 2]
    shown = invoke(app, ["graph", str(path), "--quote"]).stdout
    assert "26 chunks" in shown and "cut by the cap" in shown
    built = invoke(app, ["graph", str(path), "--build", "triples", "--max-calls", "3"]).stdout
    assert "triples: 3 calls" in built and "the cap left 23" in built


def test_the_embedded_model_stays_below_its_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triples, "SAMPLING", Sampling(max_tokens=32))
    try:
        model = load_chat_model("embedded")
    except ModelError as error:
        pytest.skip(str(error))
    graph, chunks = Graph(), two_worlds()
    graph.add(chunks)
    size = sum(model.count_tokens(m.content) for m in triples.prompt(chunks[0]))
    most = size + 100 + triples.SAMPLING.max_tokens
    report = triples.read(graph, chunks, model, Allowance(MANY, most))
    assert 0 < report.asked < len(chunks) and report.left
    spent = graph.spent(triples.KIND, triples.maker(model.name))
    assert spent.calls == report.asked and 0 < spent.tokens_in + spent.tokens_out <= most
    assert (spent.tokens_in, spent.tokens_out) == (report.tokens_in, report.tokens_out)
    for triple in triples.triples(graph):
        held = normalise(" ".join(f"{c.title} {c.text}" for c in chunks if c.id in triple.support))
        assert triple.subject in held and triple.object in held
