"""How long 10,000 answers take to score, and a report of five arms and 2,000 questions to open.

    python benchmarks/scoring_speed.py --json OUT [--questions 2000] [--only scoring,report]

Answers are 5 to 45 words from the documents of the shipped example, each different, so that
nothing is embedded twice; every task has its share. Scoring is all metrics, semantic similarity
with the embedded model included. The report is the one that the tests invent, at that size, opened
in headless Chromium with selenium (`--opens` times, median); without a browser that part is left
out.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from domainlm.artifacts import write_atomic
from domainlm.evaluation import summary
from domainlm.evaluation.tasks import score_answers
from domainlm.models.base import load_embedder
from domainlm.report import write_report
from domainlm.schema import TASKS, Answer, Question

ROOT = Path(__file__).parents[1]
ARMS = ("base", "rag", "tuned", "tuned+rag", "raft")


def invented(questions: int) -> tuple[list[Question], list[Answer]]:
    """Questions of every task and an answer of each arm."""
    rng = random.Random(0)
    folder = ROOT / "examples" / "aldervale" / "documents"
    texts = [p.read_text("utf-8") for p in sorted(folder.rglob("*")) if p.suffix in (".md", ".txt")]
    words = " ".join(texts).split()

    def some(longest: int) -> str:
        start = rng.randrange(len(words) - longest)
        return " ".join(words[start : start + rng.randint(5, longest)])

    asked, answers = [], []
    for n in range(questions):
        task = TASKS[n % len(TASKS)]
        reference = {
            "closed_form": rng.choice(("yes", "no")),
            "numeric": f"{rng.randrange(10_000)} %",
        }
        wanted = reference.get(task, some(45))
        choices = ("yes", "no") if task == "closed_form" else ()
        known = () if task == "unanswerable" else (wanted,)
        asked.append(
            Question(
                f"q{n}", some(20), known, task, (f"d{n % 50}",), choices=choices, split="test_new"
            )
        )
        for arm in ARMS:
            text = some(45) if rng.random() < 0.8 else f"{wanted} {some(10)}"
            answers.append(Answer(f"q{n}", arm, text, (), (), (), 0.5, 300, 30))
    return asked, answers


def scoring(questions: int) -> dict[str, Any]:
    """Seconds of scoring and of the statistics over the scores."""
    asked, answers = invented(questions)
    embedder = load_embedder("embedded")
    embedder.embed(["warm"], "passage")
    begun, busy = time.perf_counter(), time.process_time()
    scores = score_answers(answers, asked, embedder)
    scored, busy = time.perf_counter(), time.process_time() - busy
    score_answers(answers, asked)
    bare = time.perf_counter()
    summary.summarise(scores, answers, [0.0] * len(answers))
    summary.contrasts(scores, margin=0.05, dev=scores)
    return {
        "answers": len(answers),
        "scoring_s": round(scored - begun, 2),
        "scoring_cpu_s": round(busy, 2),
        "scoring_without_embeddings_s": round(bare - scored, 2),
        "statistics_s": round(time.perf_counter() - bare, 2),
    }


def report(questions: int, chromium: str | None, driver: str | None, opens: int) -> dict[str, Any]:
    """Seconds to write the report, its bytes, and seconds until the browser has built the page."""
    sys.path.insert(0, str(ROOT))
    from tests.unit.report_sample import sample

    result = sample(questions=questions)
    with tempfile.TemporaryDirectory() as folder:
        begun, busy = time.perf_counter(), time.process_time()
        path = write_report(result, Path(folder))
        found: dict[str, Any] = {
            "questions": questions,
            "writing_s": round(time.perf_counter() - begun, 2),
            "writing_cpu_s": round(time.process_time() - busy, 2),
            "bytes": path.stat().st_size,
        }
        if chromium and driver:
            seconds = [_opened(path, chromium, driver, Path(folder)) for _ in range(opens)]
            found["opening_s"] = round(statistics.median(seconds), 2)
            found["opening_slowest_s"] = round(max(seconds), 2)
    return found


def _opened(path: Path, chromium: str, driver: str, folder: Path) -> float:
    """Seconds from asking for the page until its script has run and a question is shown."""
    from selenium import webdriver
    from selenium.webdriver.support.ui import WebDriverWait

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    flags = "headless no-sandbox disable-gpu disable-quic no-first-run disable-component-update "
    flags += f"disable-background-networking disable-sync user-data-dir={folder}/profile"
    for flag in flags.split():
        options.add_argument(f"--{flag}")
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        browser.get("about:blank")
        begun = time.perf_counter()
        browser.get(path.as_uri())
        shown = "return document.querySelectorAll('#q-detail .answer').length > 0"
        WebDriverWait(browser, 60, poll_frequency=0.02).until(lambda b: b.execute_script(shown))
        return time.perf_counter() - begun
    finally:
        browser.quit()


def main() -> None:
    """Measure, print and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--questions", type=int, default=2_000)
    parser.add_argument("--opens", type=int, default=5)
    parser.add_argument("--only", default="scoring,report")
    parser.add_argument(
        "--chromium", default=shutil.which("chromium") or shutil.which("google-chrome")
    )
    parser.add_argument("--driver", default=shutil.which("chromedriver"))
    options = parser.parse_args()
    found = {}
    if "scoring" in options.only:
        found["scoring"] = scoring(options.questions)
    if "report" in options.only:
        browser = (options.chromium, options.driver)
        found["report"] = report(options.questions, *browser, options.opens)
    print(json.dumps(found, indent=2))
    write_atomic(options.json, json.dumps(found, indent=2).encode())


if __name__ == "__main__":
    main()
