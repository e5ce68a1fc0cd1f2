"""The engine: threads share batches, too many are told so, and whoever leaves leaves nothing."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import httpx2 as httpx
import pytest

from domainlm.errors import ModelError
from domainlm.experiment import ingest
from domainlm.models.base import Request, purpose, record_calls
from domainlm.models.fake import FakeModel
from domainlm.models.pieces import Piecewise
from domainlm.schema import ABSTENTION, Chat, Doubt, Generation, Known, Message, Sampling
from domainlm.server.auth import Users
from domainlm.server.batching import Asking, Batched, Direct, Turn, asking
from tests.unit.server_site import Running, domain, running

SAMPLING = Sampling(max_tokens=50)


def chat(text: str) -> Chat:
    return (Message("user", text),)


class Slow(FakeModel):
    """Says ten words, one every `pace_s`; a batch takes as long as one chat."""

    def __init__(self, pace_s: float = 0.02, most: int = 16) -> None:
        super().__init__(lambda c: " ".join([c[-1].content.split()[-1]] * 10), "slow")
        self.pace_s, self.most = pace_s, most
        self.batches: list[int] = []
        """How many said a word together, whenever that changed."""
        self.stopped: list[int] = []

    def generate_joining(self, take: Callable[[int], Sequence[Request]]) -> None:
        said: dict[Request, list[str]] = {}
        while True:
            for request in take(self.most - len(said)):
                said[request] = []
            if not said:
                return
            if [len(said)] != self.batches[-1:]:
                self.batches.append(len(said))
            time.sleep(self.pace_s)
            for request, words in list(said.items()):
                (made,) = self.generate([request.chat], request.params)
                word = made.text.split()[len(words)]
                go = request.listener(" " * bool(words) + word) if request.listener else True
                words.append(word)
                if not go or len(words) == made.usage.tokens_out:
                    if not go:
                        self.stopped.append(len(words))
                    del said[request]
                    request.done(replace(made, text=" ".join(words)))


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Slow:
    model = Slow()
    monkeypatch.setattr("domainlm.server.loaded.load_model", lambda config, place=None: model)
    return model


@pytest.fixture
def server(tmp_path: Path, slow: Slow) -> Iterator[Running]:
    limits = {"queue": 8, "batch": 4, "answer_seconds": 5}
    with running(domain(tmp_path, indexed=False, arms=["base"], serve=limits)) as found:
        until_ready(found)
        slow.batches.clear()
        slow.stopped.clear()
        yield found


def until_ready(server: Running) -> None:
    with server.client() as client:
        until = time.monotonic() + 20
        while client.get("/health/ready").status_code != 200:
            assert time.monotonic() < until
            time.sleep(0.01)


def quiet(server: Running) -> None:
    """Waits until nothing is being answered."""
    with server.client() as client:
        until = time.monotonic() + 10
        while "domainlm_questions_in_flight 0.0" not in client.get("/metrics").text:
            assert time.monotonic() < until, "a question is still in flight"
            time.sleep(0.02)


def ask(server: Running, word: str, **more: object) -> httpx.Response:
    return httpx.post(f"{server.url}/api/ask", json={"question": word, **more}, timeout=20)


def test_threads_share_batches_and_get_their_own_answers(server: Running, slow: Slow) -> None:
    words = [f"w{n}" for n in range(8)]
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda w: ask(server, w).json()["text"], words))
    assert made == [" ".join([w] * 10) for w in words]
    assert max(slow.batches) == 4, slow.batches


def test_too_many_questions_are_told_to_come_back(server: Running, slow: Slow) -> None:
    slow.pace_s = 0.1
    with ThreadPoolExecutor(20) as pool:
        made = list(pool.map(lambda n: ask(server, f"w{n}"), range(20)))
    refused = [r for r in made if r.status_code == 429]
    assert len(refused) == 12 and sum(r.status_code == 200 for r in made) == 8
    for response in refused:
        assert int(response.headers["Retry-After"]) >= 1
        assert response.json()["error"]["code"] == "busy"
    quiet(server)
    assert ask(server, "again").status_code == 200


def test_one_user_leaves_room_for_others(tmp_path: Path, slow: Slow) -> None:
    limits = {"queue": 6, "queue_share": 0.5, "batch": 1}
    config = domain(tmp_path, indexed=False, arms=["base"], serve=limits)
    for name in ("greedy", "patient"):
        Users(config.beside("users.json")).add(name, "viewer", f"{name}-secret-1")

    def post(name: str) -> httpx.Response:
        head = {"Authorization": f"Bearer {name}:{name}-secret-1"}
        return httpx.post(f"{server.url}/api/ask", json={"question": "w"}, headers=head, timeout=20)

    with running(config) as server:
        until_ready(server)
        assert post("greedy").status_code == post("patient").status_code == 200
        slow.pace_s = 0.1
        with ThreadPoolExecutor(8) as pool:
            greedy = [pool.submit(post, "greedy") for _ in range(6)]
            until = time.monotonic() + 10
            while sum(g.done() for g in greedy) < 3:
                assert time.monotonic() < until
                time.sleep(0.01)
            assert pool.submit(post, "patient").result().status_code == 200
            statuses = sorted(g.result().status_code for g in greedy)
            refused = next(g.result() for g in greedy if g.result().status_code == 429)
    assert statuses == [200] * 3 + [429] * 3
    assert "serve.queue_share" in refused.json()["error"]["message"]


@pytest.mark.parametrize("stream", [True, False])
def test_whoever_hangs_up_stops_decoding(server: Running, slow: Slow, stream: bool) -> None:
    slow.pace_s = 0.3
    host, port = server.url.removeprefix("http://").split(":")
    body = json.dumps({"question": "gone", "stream": stream}).encode()
    with socket.create_connection((host, int(port))) as raw:
        raw.sendall(
            b"POST /api/ask HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        if stream:
            raw.recv(65536)
        until = time.monotonic() + 10
        while not slow.batches and time.monotonic() < until:
            time.sleep(0.01)
    quiet(server)
    assert slow.stopped and slow.stopped[0] < 9
    assert not server.site.config.asked_log.exists(), "nobody got that answer"


def test_a_slow_reader_does_not_hold_the_others_up(server: Running, slow: Slow) -> None:
    with server.client() as client:
        with client.stream("POST", "/api/ask", json={"question": "a", "stream": True}) as reader:
            lines = reader.iter_lines()
            next(lines)
            started = time.monotonic()
            assert ask(server, "b").json()["text"] == " ".join("b" * 10)
            assert time.monotonic() - started < 3
            rest = "\n".join(lines)
    assert "event: answer" in rest


def test_an_answer_that_takes_too_long_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Slow(0.3)
    monkeypatch.setattr("domainlm.server.loaded.load_model", lambda config, place=None: model)
    config = domain(tmp_path, indexed=False, arms=["base"], serve={"answer_seconds": 0.5})
    with running(config) as server:
        until_ready(server)
        made = ask(server, "late")
        assert made.status_code == 503 and "answer_seconds=0.5" in made.json()["error"]["message"]
        quiet(server)


def test_closing_ends_what_is_in_flight(server: Running, slow: Slow) -> None:
    slow.pace_s = 0.3
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(ask, server, "cut")
        until = time.monotonic() + 5
        while not slow.batches and time.monotonic() < until:
            time.sleep(0.01)
        server.site.close()
        made = waiting.result()
    assert made.status_code == 503 and made.json()["error"]["code"] == "closing"
    refused = ask(server, "late")
    assert refused.status_code == 503 and refused.headers["Retry-After"]


def test_a_model_that_fails_fails_for_everyone_who_waits() -> None:
    class Broken(FakeModel):
        def generate_joining(self, take):
            take(16)
            raise ModelError("the model is out of order")

    model = Batched(Broken())
    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(model.generate, [chat(str(n))], SAMPLING) for n in range(3)]
        for one in asked:
            with pytest.raises(ModelError, match="out of order"):
                one.result(timeout=5)
    model.close()
    with pytest.raises(ModelError, match="unloaded"):
        model.generate([chat("x")], SAMPLING)


def test_whoever_fails_on_the_way_into_a_batch_hears_of_it() -> None:
    class Gone(Asking):
        def watch(self, piece: str) -> bool:
            raise OSError("the line is cut")

    model = Batched(FakeModel())
    with ThreadPoolExecutor(1) as pool:

        def ask_over(one: Asking) -> list[Generation]:
            # Not the purpose of an answer: the listener only watches.
            with asking(one), purpose("rewrite"):
                return model.generate([chat("x")], SAMPLING)

        with pytest.raises(OSError, match="cut"):
            pool.submit(ask_over, Gone()).result(timeout=5)
        assert pool.submit(ask_over, Asking()).result(timeout=5)[0].finish != "error"
    model.close()


def test_a_question_joins_those_being_answered() -> None:
    slow = Slow(0.05)
    model = Batched(slow, most=3)
    with ThreadPoolExecutor(5) as pool:
        first = pool.submit(model.generate, [chat("early")], Sampling(max_tokens=9))
        while not slow.batches:
            time.sleep(0.005)
        # Settings may differ; two join, two find no room until others have ended.
        late = [
            pool.submit(model.generate, [chat(f"w{n}")], Sampling(max_tokens=5 + n % 2))
            for n in range(4)
        ]
        made = [one.result(timeout=5)[0] for one in late]
        assert len(first.result(timeout=5)[0].text.split()) == 9
    assert [g.text for g in made] == [" ".join([f"w{n}"] * (5 + n % 2)) for n in range(4)]
    assert slow.batches[0] == 1 and max(slow.batches) == 3
    model.close()


def test_models_take_turns() -> None:
    turn = Turn()
    busy, other = Slow(0.01), Slow(0.01)
    models = [Batched(busy, turn=turn), Batched(other, turn=turn)]
    going = True

    def ask_on(model: Batched) -> int:
        asked = 0
        while going:
            model.generate([chat("x")], SAMPLING)
            asked += 1
        return asked

    # Several ask the one without a pause; the other's only question is answered all the same.
    with ThreadPoolExecutor(4) as pool:
        crowd = [pool.submit(ask_on, models[0]) for _ in range(3)]
        time.sleep(0.1)
        started = time.monotonic()
        models[1].generate([chat("y")], SAMPLING)
        took = time.monotonic() - started
        going = False
        assert sum(one.result(timeout=5) for one in crowd) > 3
    # At worst all ten words of the running batch, then ten of its own.
    assert took < 1
    for model in models:
        model.close()


def test_calls_are_billed_to_the_thread_that_asked() -> None:
    model = Batched(FakeModel())
    with record_calls() as calls, purpose("rewrite"):
        model.generate([chat("one two")], SAMPLING)
    assert [(c.purpose, c.tokens_in) for c in calls] == [("rewrite", 2)]
    model.close()


@pytest.mark.parametrize("wrap", [Batched, Direct])
def test_only_the_answer_is_told(wrap: type[Batched] | type[Direct]) -> None:
    model = wrap(FakeModel())
    heard: list[str] = []
    with asking(Asking(heard.append)):
        with purpose("rewrite"):
            model.generate([chat("secret draft")], SAMPLING)
        assert heard == []
        with purpose("answer"):
            model.generate([chat("two words")], SAMPLING)
        assert "".join(heard) == "two words" and len(heard) == 2
        with purpose("answer"):
            model.generate([chat("a"), chat("b")], SAMPLING)
        assert len(heard) == 2, "several chats are drafts"
    model.close()


@pytest.mark.parametrize(
    ("texts", "stop", "whole"),
    [
        ([" ", " Yes", " Yes,", " Yes, it", " Yes, it is. "], (), "Yes, it is."),
        (["a", "a ST", "a STO", "a STOP b"], ("STOP",), "a"),
        (["a", "a ST", "a STxy"], ("STOP",), "a STxy"),
        (["caf\ufffd", "café", "café au"], (), "café au"),
        (["x y", "x .", "x . z"], (), "x . z"),
    ],
)
def test_pieces_never_take_a_word_back(texts: list[str], stop: tuple[str, ...], whole: str) -> None:
    heard: list[str] = []
    told = Piecewise(lambda piece: bool(heard.append(piece)) or True, stop)
    for text in texts:
        told.grow(text)
    told.end(whole)
    said = "".join(heard)
    assert "\ufffd" not in said
    assert said == whole or not whole.startswith(said[:3])


def test_what_a_worker_indexes_is_served_without_a_restart(tmp_path: Path) -> None:
    config = domain(tmp_path)
    with running(config) as server:
        until_ready(server)
        found = server.site.engine.retrieve("boat", 1)
        assert found[0].doc_id != "boat.md"
        (config.documents / "boat.md").write_text("# Boat\n\nThe boat costs 4 euros.\n")
        ingest(config)
        # The index already knows it; the documents in memory follow by themselves.
        found = server.site.engine.retrieve("What does the boat cost?", 1)
        assert found[0].doc_id == "boat.md" and "4 euros" in found[0].text


def test_what_a_run_learned_to_withhold_is_not_told_by_the_server(tmp_path: Path) -> None:
    doubt = Doubt("rag", (0.0,) * 9, (1.0,) * 9, (0.0,) * 10, 1.0, 20, 10, 0.9, 0.5)
    with running(domain(tmp_path, decoding={"keep": 0.9})) as server, server.client() as client:

        def told(arm: str) -> str:
            body = {"question": "Who keeps the key?", "model": arm, "stream": True}
            events = client.post("/api/ask", json=body).text.split("\n\n")
            pieces = [e.partition("data: ")[2] for e in events if e.startswith("event: piece")]
            return "".join(map(json.loads, pieces))

        assert told("rag") != ABSTENTION
        engine = server.site.engine
        opened = engine._open()
        learned = SimpleNamespace(doubts=(doubt,), config={"decoding": {"keep": 0.9}})
        ground = replace(opened.ground, result=learned, known=Known((), ()))  # type: ignore[arg-type]
        engine._opened = replace(opened, ground=ground)
        assert told("rag") == ABSTENTION
        # Another arm learned nothing.
        assert told("base") not in ("", ABSTENTION)
