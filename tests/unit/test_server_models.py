"""Registered models behind the server: named, asked, promoted, rolled back, unloaded."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from domainlm.config import Config
from domainlm.models.fake import FakeModel
from domainlm.server.loaded import BASE, Models, Weights
from tests.unit.registry_sample import add, gated
from tests.unit.server_site import Running, domain, running
from tests.unit.web_site import with_run


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    def load(config: Config, place: Path | None = None) -> FakeModel:
        return FakeModel(lambda chat: f"I am {place.name if place else 'the base'}")

    monkeypatch.setattr("domainlm.server.loaded.load_model", load)
    config = domain(tmp_path, model="embedded", arms=["base", "rag", "raft"])
    with running(config) as found:
        yield found


def names(server: Running) -> list[str]:
    with server.client() as client:
        return [m["id"] for m in client.get("/v1/models").json()["data"]]


def ask(server: Running, model: str) -> str:
    with server.client() as client:
        made = client.post("/api/ask", json={"question": "Who?", "model": model})
        return made.json()["text"] if made.status_code == 200 else made.json()["error"]["code"]


def test_a_registered_model_answers_under_its_name(server: Running) -> None:
    assert names(server) == ["base", "rag", "embedder"], "raft is not trained yet"
    assert ask(server, "raft") == "not_found" and ask(server, "champion") == "not_found"
    registry = server.site.registry
    first = add(registry, "first")
    assert names(server) == ["base", "rag", f"raft@{first}", "embedder"]
    assert ask(server, f"raft@{first}") == f"I am {first}"
    assert ask(server, f"raft@{first[:6]}") == f"I am {first}"
    for wrong in (f"base@{first}", f"@{first}", "raft@", "raft@zzz"):
        assert ask(server, wrong) == "not_found", wrong
    registry.promote(first, over="", action="adopt")
    assert names(server)[:3] == ["base", "rag", "raft"]
    assert ask(server, "raft") == ask(server, "champion") == f"I am {first}"
    assert ask(server, "base") == "I am the base"


def test_promotion_and_the_way_back_take_effect_at_once(server: Running) -> None:
    registry = server.site.registry
    first, second = add(registry, "first"), add(registry, "second", recipe="s")
    registry.promote(first, over="", action="adopt")
    with server.client() as client:
        path = f"/api/models/{second}/promote"
        refused = client.post(path, json={})
        assert refused.status_code == 409 and "--force" in refused.json()["error"]["message"]
        gated(registry, second, first)
        stale = client.post(path, json={"over": "somebody else"})
        assert stale.status_code == 409 and "by now" in stale.json()["error"]["message"]
        made = client.post(path, json={"over": first, "reason": "better"})
        assert made.status_code == 200 and made.json()["model"] == second
        assert ask(server, "raft") == f"I am {second}"
        listed = client.get("/api/models").json()
        assert listed["champion"] == second
        assert [(m["id"], m["status"], m["decision"]) for m in listed["models"]] == [
            (m, s, d)
            for m, s, d in sorted(
                [(first, "retired", None), (second, "champion", "PROMOTE")], key=lambda m: m[0]
            )
        ]
        why = client.get(f"/api/models/{second[:8]}").json()
        assert why["record"]["id"] == second and why["status"] == "champion"
        assert client.get("/api/models/zzz").status_code == 404
        back = client.post("/api/models/rollback", json={})
        assert back.status_code == 200 and back.json()["model"] == first
        assert ask(server, "raft") == f"I am {first}"
        actions = [(x["action"], x["who"]) for x in client.get("/api/audit").json()["lines"]]
        assert actions[:2] == [("rollback", "local"), ("promote", "local")]


def test_damaged_weights_are_a_sentence(server: Running) -> None:
    registry = server.site.registry
    model = add(registry, "first")
    weights = next((registry.folder / "models" / model).glob("*.safetensors"))
    weights.write_bytes(b"other")
    assert ask(server, f"raft@{model}") != f"I am {model}"
    shutil.rmtree(registry.folder / "models" / model)
    assert ask(server, f"raft@{model}") == "not_found"


def test_the_model_unused_for_longest_makes_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[str] = []

    def load(config: Config, place: Path | None = None) -> FakeModel:
        loads.append(place.name if place else "base")
        return FakeModel(name=loads[-1])

    monkeypatch.setattr("domainlm.server.loaded.load_model", load)
    models = Models(domain(tmp_path, indexed=False, serve={"models": 2}), told=lambda n: None)
    a, b, c = (Weights(n, lambda n=n: Path(n)) for n in "abc")

    def use(weights: Weights) -> None:
        with models.use(weights) as model:
            assert model.name == (weights.key or "base")

    for weights in (BASE, a, a, b, BASE, a):
        use(weights)
    assert loads == ["base", "a", "b", "a"], "the base stays"
    with models.use(a), models.use(b):
        use(c)
        assert set(models.names()) == {"base", "a", "b", "c"}, "what is in use stays"
    models.close()
    assert models.names() == []


def test_runs_are_listed_compared_and_priced(tmp_path: Path) -> None:
    config = with_run(domain(tmp_path))
    older = config.output / "run.20260101"
    older.mkdir()
    shutil.copy(config.folder / "result.json", older)
    with running(config) as server, server.client() as client:
        found = client.get("/api/runs").json()["runs"]
        assert {r["name"] for r in found} == {"run", "run.20260101"}
        run = client.get("/api/runs/run").json()
        assert run["verdict"]["ship"] and run["summaries"] and "answers" not in run
        question = server.site.runs.result().questions[0].id
        one = client.get(f"/api/runs/run/questions/{question}").json()
        assert {a["arm"] for a in one["answers"]} == {s["arm"] for s in one["scores"]}
        both = {"before": "run.20260101", "after": "run"}
        compared = client.get("/api/compare", params=both).json()
        assert compared["a"] == "run" and compared["b"] == "run.20260101"
        wholes = [pair["contrasts"][0] for pair in compared["pairs"]]
        assert wholes and all(c["difference"]["value"] == 0 for c in wholes)
        assert all(c["verdict"] in ("equivalent", "undecided") for c in wholes)
        for wrong in ("..", "../runs/run", "none"):
            assert client.get("/api/compare", params=both | {"after": wrong}).status_code == 404
        few, many = (
            client.post("/api/roi", json={"settings": {"volume": v}}).json() for v in (10, 10**7)
        )
        assert few["money"] != many["money"]
        for settings in ({"prices": "/etc/passwd"}, {"volume": -1}, {"x": 1}, {"volume": "a"}):
            made = client.post("/api/roi", json={"settings": settings})
            assert made.status_code == 400, settings
