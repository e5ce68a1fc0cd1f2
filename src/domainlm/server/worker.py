"""The worker process of one job: `python -m domainlm.server.worker DATABASE JOB`."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import sqlite3
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import psutil

from domainlm.artifacts import timestamp
from domainlm.config import Config
from domainlm.errors import DomainLMError
from domainlm.server.database import Database

_EVERY_S = 0.3


class Reporter:
    """A `Progress` that writes to the job's row, not more often than anyone looks."""

    def __init__(self, database: Database, job_id: str) -> None:
        self._database, self._job = database, job_id
        self._stages: list[tuple[str, bool]] = []
        self._written = 0.0
        self._step = 0

    def stage(self, name: str, cached: bool) -> None:
        """A stage begins, or was found finished."""
        self._stages.append((name, cached))
        self._forget()
        self._write("stage = ?, stages = ?, done = 0, total = 0, note = ''",
                    (name, json.dumps(self._stages)))  # fmt: skip

    def update(self, done: int, total: int, note: str = "", loss: float | None = None) -> None:
        """The current stage has done `done` of `total` steps; losses become a curve."""
        if loss is not None and done <= self._step:
            # Preferences follow answers within a stage: a curve of their own.
            self._forget()
        self._step = done if loss is not None else self._step
        now = time.monotonic()
        if now - self._written >= _EVERY_S or done >= total:
            self._written = now
            self._write("done = ?, total = ?, note = ?", (done, total, note[:200]))
            if loss is not None and math.isfinite(loss):
                with self._database.change() as db:
                    db.execute("INSERT INTO losses VALUES (?, ?, ?)", (self._job, done, loss))

    def _forget(self) -> None:
        """Of the curve; the next training begins its own."""
        self._step = 0
        with self._database.change() as db:
            db.execute("DELETE FROM losses WHERE job = ?", (self._job,))

    def _write(self, what: str, values: tuple[Any, ...]) -> None:
        with self._database.change() as db:
            db.execute(f"UPDATE jobs SET {what} WHERE id = ?", (*values, self._job))


def work(kind: str, config: Config, progress: Reporter) -> Any:
    """Do the job; what it came to, as plain values.

    Raises:
        DomainLMError: it cannot be done.
    """
    if kind == "ingest":
        from domainlm.experiment import ingest

        return ingest(config, progress)
    if kind == "run":
        from domainlm.experiment import run
        from domainlm.report import write_report

        result = run(config, progress)
        write_report(result, config.folder)
        return {"ship": result.verdict.ship, "sentence": result.verdict.sentence}
    if kind == "improve":
        from domainlm.improve import improve

        done = improve(config, progress=progress)
        return {
            "challenger": done.challenger.id,
            "champion": done.champion,
            "promoted": done.promoted,
            "decision": done.result.decision,
            "reasons": list(done.result.reasons),
            "taught": [dataclasses.asdict(t) for t in done.taught],
        }
    raise AssertionError(kind)


def main() -> None:
    """Do one job and write down how it ended."""
    database, job_id = Database(Path(sys.argv[1])), sys.argv[2]
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore")
    logging.disable(logging.INFO)
    row = _take(database, job_id)
    if row is None:
        return
    config = Config.model_validate_json(row["config"])
    if not config.allow_download:
        os.environ["HF_HUB_OFFLINE"] = "1"
    status, error, result = "done", "", None
    try:
        result = work(row["kind"], config, Reporter(database, job_id))
    except DomainLMError as failure:
        status, error = "failed", str(failure)
    except Exception as failure:  # the row must not say for ever that it runs
        status, error = "failed", f"{type(failure).__name__}: {failure}"[:500]
    with database.change() as db:
        db.execute(
            "UPDATE jobs SET status = ?, error = ?, result = ?, ended = ? WHERE id = ? AND status "
            "= 'running'",
            (status, error, json.dumps(result, default=str), timestamp(), job_id),
        )


def _take(database: Database, job_id: str) -> sqlite3.Row | None:
    """Enter this process as the job's worker; None if the job no longer waits for one."""
    pid = os.getpid()
    with database.change() as db:
        row: sqlite3.Row | None = db.execute(
            "UPDATE jobs SET status = 'running', pid = ?, pid_born = ?, started = ? WHERE id = ? "
            "AND status = 'queued' RETURNING kind, config",
            (pid, psutil.Process(pid).create_time(), timestamp(), job_id),
        ).fetchone()
        return row


if __name__ == "__main__":
    main()
