"""Feedback over HTTP: everything acknowledged is in the log, whatever happens to the server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import pytest

from domainlm.feedback.exchange import import_log
from domainlm.feedback.log import EventLog
from domainlm.schema import Answer, Message, Question
from domainlm.server.answers import Answers
from tests.unit.server_site import Running, domain, running
from tests.unit.web_site import demo

SETTINGS = """
documents: documents
questions: questions.jsonl
model: fake
embedder: fake
arms: [base]
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(demo(tmp_path_factory.mktemp("feedback"))) as found:
        yield found


@pytest.fixture(scope="module")
def given(server: Running) -> list[str]:
    """Ids of two answers to one question."""
    with server.client() as client:
        asked = {"question": "When does the east gate open?"}
        return [
            client.post("/api/ask", json=asked | {"model": arm}).json()["answer_id"]
            for arm in ("rag", "base")
        ]


def test_every_kind_is_kept_and_listed(server: Running, given: list[str]) -> None:
    first, second = given
    said = [
        {"answers": [first], "thumb": "down"},
        {"answers": [first], "rating": 4},
        {"answers": [first], "edit": "V sedm hodin — הבוקר."},
        {"answers": [first, second], "prefer": second},
        {"answers": [second, first], "prefer": "both_bad"},
        {"answers": [first, second], "rank": [second, first]},
        {"answers": [first], "flag": "<b>wrong</b>"},
    ]
    with server.client() as client:
        kept = [client.post("/api/feedback", json=one) for one in said]
        assert [r.status_code for r in kept] == [201] * 7, [r.text for r in kept]
        found = client.get("/api/feedback", params={"limit": 7}).json()
    newest = found["events"][::-1]
    assert [e["value"] for e in newest] == [
        "down", "4", "", "b", "both_bad", "base > rag", "<b>wrong</b>",
    ]  # fmt: skip
    assert newest[2]["edit"] == "V sedm hodin — הבוקר." and newest[3]["arms"] == ["rag", "base"]
    assert all(e["counts"] and e["by"] == "local" for e in newest)


def test_a_post_sent_again_adds_nothing(server: Running, given: list[str]) -> None:
    said = {"answers": given[:1], "thumb": "up", "id": "mine-1"}
    with server.client() as client:
        first, again = (client.post("/api/feedback", json=said) for _ in range(2))
        assert first.json() == again.json() and first.status_code == again.status_code == 201
        other = client.post("/api/feedback", json=said | {"thumb": "down"})
        assert other.status_code == 409 and "taken" in other.json()["error"]["message"]


def test_a_retracted_event_no_longer_counts(server: Running, given: list[str]) -> None:
    with server.client() as client:
        event = client.post("/api/feedback", json={"answers": given[:1], "rating": 1}).json()["id"]
        made = client.post(f"/api/feedback/{event}/retract", json={"reason": "misread"})
        assert made.status_code == 201
        out = client.get("/api/feedback", params={"counts": False}).json()["events"]
        assert [e["id"] for e in out if e["kind"] == "rating"] == [event]
        assert client.post("/api/feedback/none/retract", json={}).status_code == 409


def test_feedback_on_a_finished_run(server: Running) -> None:
    result = server.site.engine.result()
    assert result is not None
    question, arms = result.questions[0].id, ["rag", "base"]
    with server.client() as client:
        said = {"question_id": question, "arms": arms, "prefer": "rag"}
        assert client.post("/api/feedback", json=said).status_code == 201
        found = client.get("/api/feedback", params={"question_id": question}).json()
        assert found["total"] == 1 and found["events"][0]["value"] == "a"
        assert client.post("/api/feedback", json=said | {"arms": ["x"]}).status_code == 409


@pytest.mark.parametrize(
    ("said", "status", "words"),
    [
        ({"thumb": "up"}, 400, "either answers"),
        ({"answers": ["none"], "thumb": "up"}, 409, "no answer 'none'"),
        ({"answers": [0], "thumb": "up"}, 422, "answers.0"),
        ({"answers": ["FIRST"]}, 409, "0 kinds of feedback"),
        ({"answers": ["FIRST"], "thumb": "up", "rating": 3}, 409, "2 kinds of feedback"),
        ({"answers": ["FIRST"], "rating": 6}, 422, "rating"),
        ({"answers": ["FIRST"], "rating": True}, 422, "rating"),
        ({"answers": ["FIRST"], "prefer": "FIRST"}, 409, "two"),
        ({"answers": ["FIRST", "FIRST"], "prefer": "tie"}, 409, "shown twice"),
        ({"answers": ["FIRST"], "edit": "\0"}, 409, "NUL"),
        ({"answers": ["FIRST"], "edit": "x" * 200_001}, 422, "edit"),
        ({"answers": ["FIRST"], "thumb": "up", "id": "a\nb"}, 409, "control characters"),
        ({"answers": ["FIRST"], "thumb": "up", "supersedes": "none"}, 409, "supersede"),
        ({"answers": ["FIRST"], "thumb": "up", "more": 1}, 422, "more"),
    ],
)
def test_what_cannot_be_kept_is_refused(
    server: Running, given: list[str], said: dict[str, object], status: int, words: str
) -> None:
    text = json.dumps(said).replace("FIRST", given[0])
    with server.client() as client:
        before = client.get("/api/feedback").json()["total"]
        made = client.post(
            "/api/feedback", content=text, headers={"Content-Type": "application/json"}
        )
        assert made.status_code == status and words in made.json()["error"]["message"], made.text
        assert client.get("/api/feedback").json()["total"] == before


def test_the_export_can_be_imported_elsewhere(
    server: Running, given: list[str], tmp_path: Path
) -> None:
    with server.client() as client:
        client.post("/api/feedback", json={"answers": given[:1], "thumb": "up"})
        made = client.get("/api/feedback/export")
        chain = client.get("/api/feedback/verify").json()
    assert made.status_code == 200 and chain["broken"] == "" and chain["events"] > 0
    path = tmp_path / "feedback.jsonl"
    path.write_bytes(made.content)
    with EventLog(tmp_path / "other.sqlite") as log:
        assert import_log(log, path) == (chain["events"], 0)


def test_old_answers_are_found_in_the_record(tmp_path: Path) -> None:
    answer = Answer("q", "rag", "Yes.", (Message("user", "?"),), (), (), 0.1, 3, 1)
    kept = Answers(tmp_path / "asked.jsonl").keep(Question("q", "Really?"), answer)
    assert Answers(tmp_path / "asked.jsonl").find(kept.id) == kept


def test_what_was_acknowledged_outlives_a_kill(tmp_path: Path) -> None:
    config = domain(tmp_path, indexed=False, arms=["base"])
    (tmp_path / "domainlm.yaml").write_text(SETTINGS)
    answer = Answer("q", "base", "Yes.", (Message("user", "?"),), (), (), 0.1, 3, 1)
    answer_id = Answers(config.asked_log).keep(Question("q", "Really?"), answer).id
    acknowledged: list[str] = []

    def post(url: str, name: str) -> None:
        with httpx.Client(base_url=url, timeout=30) as client:
            for n in range(10_000):
                said = {"answers": [answer_id], "thumb": "up", "id": f"{name}-{n}"}
                try:
                    if client.post("/api/feedback", json=said).status_code == 201:
                        acknowledged.append(f"{name}-{n}")
                except httpx.HTTPError:
                    return

    with Process(tmp_path) as process:
        clients = [threading.Thread(target=post, args=(process.url, f"c{n}")) for n in range(4)]
        for one in clients:
            one.start()
        until = time.monotonic() + 30
        while len(acknowledged) < 40 and time.monotonic() < until:
            time.sleep(0.01)
        process.end(signal.SIGKILL)
        for one in clients:
            one.join(30)
    assert len(acknowledged) >= 40
    with EventLog(config.feedback_log) as log:
        assert log.verify().broken == ""
        kept = {e.id for e in log.read()}
    assert set(acknowledged) <= kept


class Process:
    """`domainlm serve` in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "domainlm.cli", "serve", "--port", "0"],
            cwd=folder,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "src")},
            text=True,
        )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().split()[0]

    def __enter__(self) -> Process:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            try:
                if httpx.get(f"{self.url}/health", timeout=5).status_code == 200:
                    return self
            except httpx.HTTPError:
                time.sleep(0.05)
        raise AssertionError("the server did not start")

    def __exit__(self, *error: object) -> None:
        self.end(signal.SIGKILL)

    def end(self, how: signal.Signals) -> int:
        """Send a signal and wait."""
        self._process.send_signal(how)
        code = self._process.wait(60)
        assert self._process.stdout is not None
        self._process.stdout.close()
        return code


def test_an_interrupt_ends_the_server_with_grace(tmp_path: Path) -> None:
    domain(tmp_path, indexed=False, arms=["base"])
    (tmp_path / "domainlm.yaml").write_text(SETTINGS)
    with Process(tmp_path) as process:
        made = httpx.post(f"{process.url}/api/ask", json={"question": "Hello?"}, timeout=30)
        assert made.json()["text"] == "Hello?"
        assert process.end(signal.SIGTERM) in (0, -signal.SIGTERM)
