"""Waiting times: intervals that hold, a real queue, arms in turns, and the first token."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from domainlm import timing
from domainlm.artifacts import RunDir, Silent
from domainlm.config import Config
from domainlm.errors import DataError
from domainlm.evaluation import latency
from domainlm.models.fake import FakeModel
from domainlm.models.openai import OpenAIModel
from domainlm.rag.pipeline import closed_book
from domainlm.schema import Answer, Message, Question, Sampling


class Desk:
    """A server on a clock of its own: `fixed` seconds a batch and `each` per question in it."""

    def __init__(self, fixed: float, each: float) -> None:
        self.now, self.fixed, self.each = 0.0, fixed, each
        self.batches: list[int] = []

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def answer(self, questions):
        self.batches.append(len(questions))
        self.now += self.fixed + self.each * len(questions)
        first = self.fixed
        return [
            Answer(q.id, "a", "x", (), (), (), 0.0, 1, 5, first_token_s=first) for q in questions
        ]


def questions(n: int) -> list[Question]:
    return [Question(f"q{i}", f"Question {i}?") for i in range(n)]


def run(desk: Desk, n: int, rate: float, **more):
    return latency.under_load(
        desk.answer, questions(n), rate, clock=desk.clock, sleep=desk.sleep, **more
    )


# --- percentiles ---


def test_the_interval_of_a_percentile_covers_it() -> None:
    rng = np.random.default_rng(0)
    true = float(np.exp(1.645 * 0.5))  # 95th percentile of a lognormal
    held = 0
    for _ in range(300):
        found = latency.percentile(list(rng.lognormal(0, 0.5, 120)), 0.95)
        assert found.low is not None and found.high is not None
        held += found.low <= true <= found.high
    assert held / 300 >= 0.93


def test_few_values_bound_no_percentile_from_above() -> None:
    few, many = (latency.percentile(list(np.arange(1.0, n + 1)), 0.95) for n in (71, 72))
    assert few.high is None and many.high == 72.0
    with pytest.raises(DataError, match="percentile 0.5 of 0 values"):
        latency.percentile([], 0.5)


def test_a_queue_is_resampled_by_its_busy_stretches() -> None:
    """Waits of one stretch are alike: the plain interval is far too narrow for their median."""
    rng = np.random.default_rng(1)
    held = plain = 0
    for seed in range(120):
        level = rng.lognormal(0, 0.6, 30)
        values = [float(v) for v in np.repeat(level, 10)]
        stretches = [int(v) for v in np.repeat(np.arange(30), 10)]
        ours = latency.percentile_in_queue(values, stretches, 0.5, seed=seed)
        naive = latency.percentile(values, 0.5)
        held += ours.low <= 1.0 <= ours.high
        plain += naive.low <= 1.0 <= naive.high
    assert held / 120 >= 0.88 and plain / 120 < 0.6
    never_idle = latency.percentile_in_queue([1.0] * 50, [1] * 50, 0.5)
    assert never_idle.low is None and never_idle.method == "too few busy stretches"


# --- a load ---


def test_a_light_load_waits_for_nobody() -> None:
    timings, busy, elapsed = run(Desk(0.1, 0.0), 40, rate=0.01)
    assert {round(t.end_s, 6) for t in timings} == {0.1}
    assert len({t.stretch for t in timings}) == 40
    assert busy == pytest.approx(4.0) and busy / elapsed < 0.01


def test_the_queue_follows_the_formula_of_a_single_server() -> None:
    """M/D/1: the mean wait in line is rho s / (2 (1 - rho)) (Pollaczek-Khinchine)."""
    desk = Desk(1.0, 0.0)
    timings, busy, elapsed = run(desk, 6_000, rate=0.6, batch=1)
    mean = float(np.mean([t.end_s for t in timings])) - 1.0
    assert mean == pytest.approx(0.6 / (2 * 0.4), rel=0.12)
    assert busy / elapsed == pytest.approx(0.6, rel=0.05)


def test_what_waits_is_answered_together_and_an_arm_can_fall_behind() -> None:
    desk = Desk(1.0, 0.01)
    timings, busy, elapsed = run(desk, 200, rate=5.0, batch=8)
    assert max(desk.batches) <= 8 and sum(desk.batches) == 200
    assert np.mean(desk.batches) > 3
    alone = run(Desk(1.0, 0.01), 200, rate=5.0, batch=1)[0]
    assert alone[-1].end_s > 5 * timings[-1].end_s, "batching must help a queue"
    assert alone[-1].end_s > alone[10].end_s + 50, "one at a time falls behind for good"
    assert {t.stretch for t in alone} == {1}


def test_the_same_questions_arrive_at_every_arm() -> None:
    fast, again = (run(Desk(0.001, 0.0), 20, rate=3.0, seed=4)[2] for _ in range(2))
    assert fast == again != run(Desk(0.001, 0.0), 20, rate=3.0, seed=5)[2]


def test_a_profile_tells_first_token_and_tokens() -> None:
    found = latency.profile("a", [latency.Timing(1.0, 0.2, 5, 0)] * 80)
    assert found.end_to_end["p95"].value == 1.0 and found.end_to_end["p95"].high == 1.0
    assert found.first_token["p50"].value == 0.2
    assert found.per_token_s.value == pytest.approx(0.2) and found.served == pytest.approx(1.0)
    mute = latency.profile("a", [latency.Timing(1.0, None, 5, 0)])
    assert mute.first_token == {} and mute.per_token_s is None
    assert found.end_to_end["p99"].high is None


def test_the_first_token_of_a_batch_waits_for_its_retrievals() -> None:
    timings, _, _ = run(Desk(0.5, 0.1), 30, rate=2.0)
    assert all(0.5 <= t.first_s < t.end_s for t in timings)


# --- arms in turns ---


class Bench:
    """Two arms on two adapters; who was asked what is kept."""

    def __init__(self) -> None:
        self.asked = questions(6)
        self.turns: list[tuple[str, str]] = []
        self.loaded: list[str] = []

    def groups(self):
        return {"": ["base"], "tuned": ["tuned"]}

    def load(self, adapter):
        self.loaded.append(adapter)
        return FakeModel(lambda chat: "one two three")

    def timed(self, name, model):
        arm = closed_book(name, model, Sampling())

        def answer(asked):
            self.turns += [(name, q.id) for q in asked]
            return arm.answer(asked)

        return answer


def config(tmp_path, **evaluation) -> Config:
    return Config.model_validate(
        {
            "documents": "d",
            "questions": "q",
            "output": tmp_path,
            "arms": ["base", "tuned"],
            "evaluation": evaluation,
        }
    )


@pytest.mark.parametrize("fits", [True, False])
def test_arms_take_turns_where_they_fit(tmp_path, monkeypatch, fits) -> None:
    monkeypatch.setattr(timing, "_fit", lambda config, models: fits)
    bench, settings = Bench(), config(tmp_path, probes=6)
    with RunDir(settings.folder) as folder:
        first = timing.measure(bench, settings, folder, "k", Silent())
        again = timing.measure(bench, settings, folder, "k", Silent())
    assert sorted(bench.turns) == sorted((a, q.id) for a in ("base", "tuned") for q in bench.asked)
    switches = sum(a[0] != b[0] for a, b in zip(bench.turns, bench.turns[1:], strict=False))
    assert switches > 1 if fits else switches == 1
    assert [(w.arm, w.n, w.interleaved) for w in first] == [
        ("base", 6, fits),
        ("tuned", 6, fits),
    ]
    assert again == first and len(bench.loaded) == 2, "a second run must time nothing"
    assert first[0].first_token["p50"].value <= first[0].end_to_end["p50"].value


def test_a_load_is_measured_where_it_is_asked_for(tmp_path) -> None:
    bench = Bench()
    settings = config(tmp_path, probes=0, load=2_000.0, load_questions=10)
    with RunDir(settings.folder) as folder:
        found = timing.measure(bench, settings, folder, "k", Silent())
    assert [(w.arm, w.rate, w.n) for w in found] == [("base", 2000.0, 10), ("tuned", 2000.0, 10)]
    assert len(bench.turns) == 20 and all(0 < w.busy <= 1 for w in found)
    off = config(tmp_path, probes=0)
    with RunDir(off.folder) as folder:
        assert timing.measure(Bench(), off, folder, "k", Silent()) == ()


# --- the first token of a remote model ---


class Stream(BaseHTTPRequestHandler):
    """Sends "a b c" word by word, or refuses to stream."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body)
        streams = body.get("stream", False)
        if streams and self.server.refuses:
            return self.send(400, "application/json", b'{"error": {"message": "no stream"}}')
        usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
        if not streams:
            choice = {"index": 0, "finish_reason": "stop", "message": {"content": "a b c"}}
            whole = {"id": "1", "choices": [choice], "usage": usage}
            return self.send(200, "application/json", json.dumps(whole).encode())
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        ends = [None, None, "stop"]
        for word, end in zip(("a", " b", " c"), ends, strict=True):
            self.event(
                {"choices": [{"index": 0, "delta": {"content": word}, "finish_reason": end}]}
            )
            time.sleep(0.12)
        self.event({"choices": [], "usage": usage})
        self.wfile.write(b"data: [DONE]\n\n")

    def event(self, body):
        head = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        self.wfile.write(f"data: {json.dumps(head | body)}\n\n".encode())
        self.wfile.flush()

    def send(self, status, kind, data):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    served = ThreadingHTTPServer(("127.0.0.1", 0), Stream)
    served.daemon_threads = True
    served.bodies, served.refuses = [], False
    threading.Thread(target=served.serve_forever, daemon=True).start()
    yield served
    served.shutdown()
    served.server_close()


def test_a_remote_model_streams_only_when_it_is_timed(server) -> None:
    model = OpenAIModel(f"http://127.0.0.1:{server.server_port}/v1", "m", "UNSET_KEY")
    chat = (Message("user", "Say a, b, c."),)
    (plain,) = model.generate([chat], Sampling())
    (timed,) = model.generate([chat], Sampling(stream=True))
    assert timed.text == plain.text == "a b c" and timed.usage == plain.usage
    assert 0 < timed.first_token_s < timed.latency_s - 0.09 and plain.first_token_s is None
    assert "stream" not in server.bodies[0] and server.bodies[1]["stream"]
    server.refuses = True
    (refused,) = model.generate([chat], Sampling(stream=True))
    assert refused.text == "a b c" and refused.first_token_s is None and refused.finish == "stop"
