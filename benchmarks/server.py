"""How fast does the server answer, and does it lose anything when it is killed?

    python benchmarks/server.py --json OUT [--config FILE] [--work DIR] [--set KEY=VALUE]
                                [--parts page token throughput feedback]

Serves a configuration (the shipped example; its arms base and rag, which need no training) as
`domainlm serve` does, in a process of its own, and measures from outside: the first page with all
that it loads; the first token of streamed answers; questions one at a time against 16 askers at
once; 1,000 feedback posts from 8 clients while the server is killed twice (SIGKILL) and started
again. Then: is every acknowledged event in the log, and does its chain verify?
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx2 as httpx

from domainlm.config import Config, load_config
from domainlm.corpus.questions import load_questions
from domainlm.experiment import ingest
from domainlm.feedback.log import EventLog

EXAMPLE = Path(__file__).parents[1] / "examples" / "aldervale" / "domainlm.yaml"
PARTS = ("page", "token", "throughput", "feedback")
ASKERS, EACH = 16, 4
"""Who ask at once, and how many questions each asks one after the other."""
POSTS, CLIENTS, KILLS = 1_000, 8, 2
STREAMED = 10


class Server:
    """`domainlm serve` in a process that may be killed; it always comes back on the same port."""

    def __init__(self, config: Path, overrides: list[str]) -> None:
        self._command = [sys.executable, "-m", "domainlm.cli", "serve", "--config", str(config)]
        for override in overrides:
            self._command += ["--set", override]
        self._port = 0
        self.start()

    def start(self) -> None:
        """Start it and wait until it answers questions."""
        started = time.perf_counter()
        self._process = subprocess.Popen(
            [*self._command, "--port", str(self._port)], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        self.url = line.split()[0]
        self._port = int(self.url.rpartition(":")[2])
        while not self.is_ready():
            if self._process.poll() is not None:
                raise SystemExit("the server ended by itself")
            time.sleep(0.05)
        self.ready_s = time.perf_counter() - started

    def is_ready(self) -> bool:
        """Whether questions are answered."""
        try:
            return httpx.get(f"{self.url}/health/ready", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    def kill(self) -> None:
        """End it without a warning."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def end(self) -> float:
        """Ask it to end; seconds until it has."""
        started = time.perf_counter()
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(60)
        return time.perf_counter() - started


def first_page(url: str) -> dict[str, Any]:
    """The first page with its style sheets, scripts and pictures: bytes, and seconds of each of
    ten visits by one client.
    """
    with httpx.Client(base_url=url, follow_redirects=True) as client:
        page = client.get("/", headers={"Accept": "text/html"})
        if "html" not in page.headers.get("content-type", ""):
            raise SystemExit(f"the first page is {page.status_code}: {page.text[:200]}")
        parts = re.findall(r'<(?:link|script|img)[^>]+(?:href|src)="(/[^"]+)"', page.text)
        sizes = {part: len(client.get(part).content) for part in dict.fromkeys(parts)}
        times = []
        for _ in range(10):
            started = time.perf_counter()
            for part in ["/", *sizes]:
                client.get(part, headers={"Accept": "text/html"}).raise_for_status()
            times.append(time.perf_counter() - started)
    return {
        "html_bytes": len(page.content),
        "all_bytes": len(page.content) + sum(sizes.values()),
        "parts": sizes,
        "median_s": round(statistics.median(times), 4),
        "slowest_s": round(max(times), 4),
    }


def first_token(url: str, model: str, question: str) -> float:
    """Seconds from sending a question to the first piece of its answer."""
    started = time.perf_counter()
    body = {"model": model, "stream": True, "messages": [{"role": "user", "content": question}]}
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=120) as reply:
        reply.raise_for_status()
        for line in reply.iter_lines():
            if line.startswith("data: {"):
                choices = json.loads(line[6:])["choices"]
                if choices and choices[0]["delta"].get("content"):
                    return time.perf_counter() - started
    raise SystemExit(f"{model} said nothing to {question!r}")


def ask(url: str, model: str, question: str) -> tuple[bool, float, int, int]:
    """One whole answer: whether there was one, seconds, tokens read and written."""
    started = time.perf_counter()
    body = {"model": model, "messages": [{"role": "user", "content": question}]}
    made = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=300)
    usage = made.json().get("usage", {"prompt_tokens": 0, "completion_tokens": 0})
    took = time.perf_counter() - started
    return made.status_code == 200, took, usage["prompt_tokens"], usage["completion_tokens"]


def first_tokens(url: str, questions: list[str]) -> dict[str, Any]:
    """First tokens of `rag`, question after question."""
    seconds = [first_token(url, "rag", q) for q in questions]
    return {
        "median_s": round(statistics.median(seconds), 3),
        "slowest_s": round(max(seconds), 3),
    }


def throughput(url: str, model: str, questions: list[str]) -> dict[str, Any]:
    """The same questions one at a time, then by all askers at once."""
    asked = questions[: EACH * ASKERS]
    started = time.perf_counter()
    alone = [ask(url, model, q) for q in asked]
    alone_s = time.perf_counter() - started
    started = time.perf_counter()
    with ThreadPoolExecutor(ASKERS) as pool:
        together = list(pool.map(lambda q: ask(url, model, q), asked))
    together_s = time.perf_counter() - started
    rates = len(alone) / alone_s, len(together) / together_s
    return {
        "askers": ASKERS,
        "failed": sum(not ok for ok, *_ in together),
        "alone_per_s": round(rates[0], 3),
        "together_per_s": round(rates[1], 3),
        "times": round(rates[1] / rates[0], 2),
        "tokens_in": [round(statistics.mean(r[2] for r in rs)) for rs in (alone, together)],
        "tokens_out": [round(statistics.mean(r[3] for r in rs)) for rs in (alone, together)],
        "together_median_s": round(statistics.median(r[1] for r in together), 2),
        "together_slowest_s": round(max(r[1] for r in together), 2),
    }


def feedback(server: Server, config: Config, question: str) -> dict[str, Any]:
    """Posts by several clients, which try again until they are acknowledged, and two kills."""
    asked = httpx.post(f"{server.url}/api/ask", json={"question": question}, timeout=120)
    answer = asked.json()["answer_id"]
    acknowledged: list[str] = []
    seconds: list[float] = []

    def post(client_name: str) -> None:
        for n in range(POSTS // CLIENTS):
            said = {"answers": [answer], "rating": 1 + n % 5, "id": f"{client_name}-{n}"}
            while True:
                started = time.perf_counter()
                try:
                    made = httpx.post(f"{server.url}/api/feedback", json=said, timeout=60)
                except httpx.HTTPError:
                    time.sleep(0.1)
                    continue
                if made.status_code == 201:
                    seconds.append(time.perf_counter() - started)
                    acknowledged.append(said["id"])
                    break
                time.sleep(float(made.headers.get("Retry-After", 0.2)))

    started = time.perf_counter()
    clients = [threading.Thread(target=post, args=(f"client{n}",)) for n in range(CLIENTS)]
    for client in clients:
        client.start()
    for kill in range(1, KILLS + 1):
        while len(acknowledged) < POSTS * kill // (KILLS + 1):
            time.sleep(0.005)
        server.kill()
        server.start()
    for client in clients:
        client.join()
    took = time.perf_counter() - started
    with EventLog(config.feedback_log) as log:
        chain = log.verify()
        kept = {event.id for event in log.read()}
    return {
        "posts": POSTS,
        "clients": CLIENTS,
        "kills": KILLS,
        "acknowledged": len(acknowledged),
        "lost": len(set(acknowledged) - kept),
        "events": chain.events,
        "broken": chain.broken,
        "seconds": round(took, 1),
        "post_median_ms": round(1_000 * statistics.median(seconds), 1),
        "post_p99_ms": round(1_000 * sorted(seconds)[int(0.99 * len(seconds))], 1),
    }


def main() -> None:
    """Measure and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--config", type=Path, default=EXAMPLE)
    parser.add_argument("--work", type=Path, help="folder of the run (default: a new one)")
    parser.add_argument("--set", action="append", default=[], help="a setting, such as model=fake")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    given = parser.parse_args()
    work = given.work or Path(tempfile.mkdtemp(prefix="server-"))
    overrides = [f"output={work.resolve()}", "arms=[base,rag]", "serve.requests_per_minute=1000000"]
    overrides += given.set
    config = load_config(given.config, overrides)
    os.environ["HF_HUB_OFFLINE"] = "1"
    ingest(config)
    questions = [q.text for q in load_questions(config.questions)]
    server = Server(given.config, overrides)
    figures: dict[str, Any] = {
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "start_s": round(server.ready_s, 1),
    }

    def measure(part: str, name: str, make: Callable[[], dict[str, Any]]) -> None:
        if part in given.parts:
            figures[name] = make()
            print(json.dumps({name: figures[name]}), flush=True)

    measure("page", "first_page", lambda: first_page(server.url))
    measure("token", "first_token", lambda: first_tokens(server.url, questions[-STREAMED:]))
    for model in ("base", "rag"):
        name = f"throughput_{model}"
        measure("throughput", name, partial(throughput, server.url, model, questions))
    measure("feedback", "feedback", lambda: feedback(server, config, questions[0]))
    figures["end_s"] = round(server.end(), 2)
    figures["load_after"] = os.getloadavg()[0]
    given.json.write_text(json.dumps(figures, indent=1) + "\n", "utf-8")
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
