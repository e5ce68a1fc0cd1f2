"""Whether passages enter the prompt: learned where it matters, kept only where it pays, applied
alike in a run, for one question and by the server.
"""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.optimize

from domainlm import bench, experiment, fetching
from domainlm.config import Config, make_config
from domainlm.diagnose import waterfalls
from domainlm.errors import ConfigError, DataError, ModelError
from domainlm.models.fake import FakeModel
from domainlm.rag import prompts
from domainlm.rag.arms import arm_of
from domainlm.rag.pipeline import Retrieval
from domainlm.schema import (
    ABSTENTION,
    Chat,
    Document,
    FetchPolicy,
    Question,
    RagSpec,
    Sampling,
    Score,
    StageSpec,
)
from domainlm.training import fetch
from tests.unit.corpora import resources_of
from tests.unit.server_site import domain as site
from tests.unit.server_site import running

DOCUMENTS = 30


def world(
    seed: int, *, n: int = 150, without: float = 0.5, helps: float = 0.5
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Signs, quality and tokens of questions; with passages right answers are likelier by `helps`
    where the first sign is positive, and as much less likely elsewhere.
    """
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, len(fetch.SIGNS)))
    documents = np.arange(n) % DOCUMENTS
    # Questions about one document are equally hard.
    level = np.clip(without + rng.normal(size=DOCUMENTS)[documents] * 0.15, 0, 1)
    shown = level + np.where(x[:, 0] > 0, helps, -helps)
    quality = (rng.random((n, 2)) < np.c_[level, shown]).astype(float)
    tokens = np.tile([50.0, 550.0], (n, 1))
    return x, quality, tokens, [f"d{d}" for d in documents]


def test_what_matters_is_learned_and_beats_both_constants() -> None:
    policy = fetch.learn("raft", *world(1), price=1)
    assert policy is not None and policy.kept
    assert 0.4 < policy.fetched < 0.6 and abs(policy.weights[0]) > 3 * max(
        map(abs, policy.weights[1:-1])
    )
    assert policy.quality.learned > max(policy.quality.always, policy.quality.never) + 0.1
    assert policy.tokens.always == 550 > policy.tokens.learned > policy.tokens.never == 50


def test_equal_actions_are_hardly_ever_taken_for_different_ones() -> None:
    kept = sum(
        policy.kept
        for seed in range(60)
        if (policy := fetch.learn("raft", *world(seed, n=60, helps=0.0), price=0))
    )
    assert kept <= 3


def test_passages_that_always_help_are_always_shown() -> None:
    x, quality, tokens, clusters = world(2)
    quality[:, 0], quality[:, 1] = 0.1, 0.9
    policy = fetch.learn("raft", x, quality, tokens, clusters, price=1)
    assert policy is not None and policy.fetched == 1 and not policy.kept
    # At 20 points per 100 tokens, they are not worth it.
    dear = fetch.learn("raft", x, quality, tokens, clusters, price=100 * 2)
    assert dear is not None and dear.fetched == 0 and not dear.kept


def test_few_documents_prove_nothing() -> None:
    x, quality, tokens, _ = world(1)
    few = [f"d{n % 7}" for n in range(len(x))]
    policy = fetch.learn("raft", x, quality, tokens, few, price=1)
    assert policy is not None and policy.over_always.value > 0.1 and not policy.kept
    assert fetch.learn("raft", x, quality, tokens, ["d"] * len(x), price=1) is None


def test_questions_of_a_document_do_not_teach_about_themselves() -> None:
    """Each document is right one way or the other by chance, and one sign tells which it is."""
    rng = np.random.default_rng(3)
    documents = np.arange(120) % 12
    x = np.eye(12)[documents][:, : len(fetch.SIGNS)] + rng.normal(size=(120, 7)) * 0.01
    better = rng.random(12) < 0.5
    quality = np.c_[~better[documents], better[documents]].astype(float)
    clusters = [f"d{d}" for d in documents]
    policy = fetch.learn("raft", x, quality, np.zeros((120, 2)), clusters, price=0)
    # Seen in training, they would all be right.
    assert policy is not None and policy.quality.learned < 0.75 and not policy.kept


def test_the_gradient_is_that_of_the_objective() -> None:
    rng = np.random.default_rng(0)
    z = np.c_[rng.normal(size=(40, 7)), np.ones(40)]
    gain, w = rng.normal(size=40), rng.normal(size=8)
    numeric = scipy.optimize.approx_fprime(w, lambda v: fetch.objective(v, z, gain)[0], 1e-7)
    assert np.allclose(fetch.objective(w, z, gain)[1], numeric, atol=1e-5)


# --- in an arm -------------------------------------------------------------------------------

QUESTION = Question("q", "Where does the key of site3 hang?", ("the door",), ("site3.txt",))


def fixed(bias: float, arm: str = "rag", *, price: float = 1) -> FetchPolicy:
    """A policy that always (above 0) or never fetches."""
    policy = fetch.learn(arm, *world(1), price=price)
    assert policy is not None and policy.kept
    return replace(policy, weights=(*(0.0,) * len(fetch.SIGNS), bias))


@pytest.fixture
def retrieval(tmp_path: Path) -> Retrieval:
    text = "The key of {} hangs behind the door.\n\nBirds sing at {}."
    names = [f"site{n}" for n in range(5)]
    documents = [Document(f"{n}.txt", n, n, text.format(n, n), "text/plain", n) for n in names]
    resources = resources_of(tmp_path, documents, examples=(Question("t", "Who sings at site1?"),))
    return Retrieval(RagSpec(retrieve=(StageSpec("bm25"),), passages=2), resources)


def test_signs_tell_how_well_passages_fit(retrieval: Retrieval) -> None:
    found = retrieval(QUESTION)
    values = dict(zip(fetch.SIGNS, fetch.signs(QUESTION, found, retrieval.resources), strict=True))
    other = Question("o", "What is seventeen plus twenty?")
    far = dict(zip(fetch.SIGNS, fetch.signs(other, found, retrieval.resources), strict=True))
    for sign in (fetch.SIGNS[0], fetch.SIGNS[2], fetch.SIGNS[4]):
        assert values[sign] > far[sign], sign
    assert (
        values[fetch.SIGNS[2]] == pytest.approx(2 / 3) and np.isfinite(list(values.values())).all()
    )


def test_an_arm_asks_closed_book_where_passages_are_turned_away(retrieval: Retrieval) -> None:
    model = FakeModel()

    def ask(bias: float | None):  # type: ignore[no-untyped-def]
        gate = None if bias is None else fetch.gate(fixed(bias), retrieval.resources)
        return arm_of("rag", model, Sampling(), retrieval, gate).answer([QUESTION])[0]

    plain, always, never = ask(None), ask(1.0), ask(-1.0)
    assert always.prompt == plain.prompt and always.passages == plain.passages
    assert never.prompt == prompts.closed_book(QUESTION) and not never.passages
    assert never.tokens_in < always.tokens_in and not never.citations
    steps = [[(s.phase, s.stage, bool(s.chunks)) for s in a.trace] for a in (always, never)]
    assert steps[0] == [("retrieve", "bm25", True), ("post", "fetch", True)]
    assert steps[1] == [("retrieve", "bm25", True), ("post", "fetch", False)]


def test_without_its_embedder_an_arm_shows_what_it_found(
    retrieval: Retrieval, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(*_: object) -> None:
        raise ModelError("the embedder is down")

    gate = fetch.gate(fixed(-1.0), retrieval.resources)
    monkeypatch.setattr(fetch, "signs", down)
    answer = arm_of("rag", FakeModel(), Sampling(), retrieval, gate).answer([QUESTION])[0]
    assert answer.passages and answer.trace[-1].fallback == "the embedder is down"


def test_a_question_whose_passages_were_turned_away_is_lost_there(retrieval: Retrieval) -> None:
    asked = replace(QUESTION, evidence=("The key of site3 hangs behind the door.",))
    gate = fetch.gate(fixed(-1.0), retrieval.resources)
    answer = arm_of("rag", FakeModel(), Sampling(), retrieval, gate).answer([asked])[0]
    wrong = Score("q", "rag", "extractive", "test_new", "site3.txt", {"primary": 0.0}, "wrong")
    (found,) = waterfalls([asked], [answer], [wrong], retrieval.spec, retrieval.resources)
    assert [loss.step for loss in found.losses] == ["packed"]


def test_a_policy_of_other_signs_is_refused(retrieval: Retrieval) -> None:
    with pytest.raises(DataError, match="3 signs, this version reads 7"):
        fetch.gate(replace(fixed(1.0), centre=(0.0,) * 3), retrieval.resources)


# --- in a run --------------------------------------------------------------------------------


def domain(folder: Path, *arms: str) -> Config:
    """Pumps, which only passages tell of, and jokes, which passages spoil."""
    rng, rows = random.Random(0), []
    (folder / "documents").mkdir()
    for n, split in enumerate(["train"] * 4 + ["dev"] * 14 + ["test_known"] * 4):
        a, b, c, d = ("".join(rng.choices("bcdfgklmnprstvz", k=7)) for _ in range(4))
        text = f"# {a}\n\nPump {a} {b} moves {40 + n} litres a minute.\n"
        (folder / "documents" / f"{a}.md").write_text(text, "utf-8")
        pump = {"text": f"How much does {a} {b} move?", "references": [f"{40 + n} litres"]}
        joke = {"text": f"Tell a joke: {c} {d}", "references": [f"ha ha {d}"]}
        rows.append({"id": f"pump{n}", "doc_ids": [f"{a}.md"], "split": split, **pump})
        rows.append({"id": f"joke{n}", "split": split, **joke})
    (folder / "questions.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    raw: dict[str, object] = {
        "documents": "documents",
        "questions": "questions.jsonl",
        "model": "fake",
        "embedder": "fake",
        "arms": arms,
        "output": "runs",
        "decoding": {"fetch_price": 1},
        "rag": {"retrieve": [{"use": "bm25"}]},
        "evaluation": {"dev_questions": 28, "probes": 0},
    }
    return make_config(raw, base=folder)


def says(chat: Chat) -> str:
    asked = chat[-1].content.splitlines()[-1]
    if chat[0].content == prompts.CLOSED_BOOK:
        return f"ha ha {asked.split()[-1]}" if "joke" in asked else "no idea"
    told = re.search(r"moves (\d+ litres)", chat[-1].content) if "much" in asked else None
    return told[1] if told else ABSTENTION


# Without `base`, the closed-book answers of its weights are asked for.
@pytest.mark.parametrize("arms", [("base", "rag"), ("rag",)])
def test_a_run_learns_applies_and_remembers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arms: tuple[str, ...]
) -> None:
    model = FakeModel(says)
    monkeypatch.setattr(bench, "load_model", lambda *_: model)
    monkeypatch.setattr(bench, "release", lambda: None)
    config = domain(tmp_path, *arms)
    result = experiment.run(config)
    (policy,) = result.fetching
    assert policy.kept and policy.quality.learned > 0.9
    assert any(c.startswith("rag shows passages only where") for c in result.verdict.caveats)
    read = {a.question_id: a for a in result.answers if a.arm == "rag"}
    decided = [a for a in read.values() if a.trace[-1].stage == "fetch"]
    assert {bool(a.passages) for a in decided} == {True, False}
    for answer in decided:
        joke = answer.question_id.startswith("joke")
        assert (answer.prompt[0].content == prompts.CLOSED_BOOK) == (not answer.passages)
        assert (answer.text.startswith("ha ha")) == joke, answer.text
        assert [c.kind for c in answer.calls][-1] == "generate" and answer.latency_s > 0
    # A later question takes the same way.
    for some in (decided[0], next(a for a in decided if not a.passages)):
        text = next(q.text for q in result.questions if q.id == some.question_id)
        again = experiment.ask_one(config, text, "rag")
        assert (again.text, again.prompt, again.passages) == (some.text, some.prompt, some.passages)
        assert [s.stage for s in again.trace] == [s.stage for s in some.trace]
    before = len(model.chats)
    assert experiment.run(config).fetching == result.fetching and len(model.chats) == before
    # Another price learns anew from the same answers; without one all passages are shown again.
    dear, off = (
        config.model_copy(update={"decoding": config.decoding.model_copy(update=given)})
        for given in ({"fetch_price": 2.0}, {"fetch_price": None})
    )
    assert experiment.run(dear).fetching[0].price == 2
    plain = experiment.run(off)
    assert not plain.fetching and len(model.chats) == before
    assert all(a.trace[-1].stage == "bm25" for a in plain.answers if a.arm == "rag")
    assert fetching.learned(dear, result) == fetching.learned(off, result) == {}
    assert fetching.learned(config, result) == {"rag": policy}


def test_too_few_documents_are_said(tmp_path: Path) -> None:
    result = experiment.run(site(tmp_path, decoding={"fetch_price": 1}))
    (told,) = [c for c in result.verdict.caveats if "passages are always shown" in c]
    assert "too few" in told
    assert all(s.stage != "fetch" for a in result.answers for s in a.trace)


def test_other_readers_have_no_one_prompt(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="rag.reader: together"):
        site(tmp_path, indexed=False, decoding={"fetch_price": 1}, rag={"reader": "per_document"})


def test_the_server_decides_as_the_run_did(tmp_path: Path) -> None:
    config = site(tmp_path, decoding={"fetch_price": 1})
    with running(config) as server, server.client() as client:

        def stages(arm: str = "rag") -> list[tuple[str, bool]]:
            body = {"question": "Who keeps the key of the east gate?", "model": arm}
            made = client.post("/api/ask", json=body).json()
            return [(s["stage"], bool(s["chunks"])) for s in made["trace"]]

        assert "fetch" not in dict(stages())
        engine = server.site.engine
        opened = engine._open()

        def learn(policy: FetchPolicy, price: float) -> None:
            told = SimpleNamespace(
                fetching=(policy,), doubts=(), config={"decoding": {"fetch_price": price}}
            )
            ground = replace(opened.ground, result=told)  # type: ignore[arg-type]
            engine._opened = replace(opened, ground=ground)

        learn(fixed(-1.0), 1.0)
        assert stages()[-1] == ("fetch", False) and stages("base") == []
        card = replace(engine.card("rag"), model="promoted")
        assert engine._gate(engine._open(), card) is None
        learn(fixed(1.0), 1.0)
        assert stages()[-1] == ("fetch", True)
        for policy, price in ((replace(fixed(-1.0), kept=False), 1.0), (fixed(-1.0), 2.0)):
            learn(policy, price)
            assert "fetch" not in dict(stages())
