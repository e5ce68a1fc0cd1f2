"""Long work in worker processes: kept in SQLite, one at a time, outliving the server.

A job belongs to the machine and not to the server: a server that restarts finds it running, or,
if the machine went down, starts it again; finished work is kept in the run's folder either way.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import psutil

from domainlm.artifacts import timestamp
from domainlm.config import Config
from domainlm.server.database import Database
from domainlm.server.failures import HttpFailure, NotFound

Kind = Literal["ingest", "run", "improve"]
KINDS: tuple[Kind, ...] = ("ingest", "run", "improve")
Status = Literal["queued", "running", "done", "failed", "cancelled"]
WORKER = "domainlm.server.worker"
_EVERY_S = 0.5
_PATIENCE_S = 10.0
_ATTEMPTS = 2
_MOST_QUEUED = 20
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Job:
    """One piece of long work and how far it is; `stages` are those done, with whether each was
    found finished.
    """

    id: str
    number: int
    kind: Kind
    status: Status
    by: str
    created: str
    started: str
    ended: str
    stage: str
    done: int
    total: int
    note: str
    stages: tuple[tuple[str, bool], ...]
    result: Any
    error: str


class Jobs:
    """The queue of jobs and the thread that starts and watches their processes."""

    def __init__(self, database: Database, config: Config, on_end: Callable[[], None]) -> None:
        self._database, self._config, self._on_end = database, config, on_end
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._ended = self._count_ended()
        self._thread = threading.Thread(target=self._watch, name="jobs", daemon=True)
        self._thread.start()

    def start(self, kind: Kind, by: str) -> Job:
        """Put a job in the queue; one of the same kind that still waits is returned instead.

        Raises:
            HttpFailure: too many jobs wait.
        """
        job_id = uuid.uuid4().hex
        with self._database.change() as db:
            waiting = db.execute("SELECT id, kind FROM jobs WHERE status = 'queued'").fetchall()
            for row in waiting:
                if row["kind"] == kind:
                    job_id = row["id"]
                    break
            else:
                if len(waiting) >= _MOST_QUEUED:
                    raise HttpFailure(
                        429,
                        f"{len(waiting)} jobs wait already; cancel some or wait",
                        code="busy",
                        headers={"Retry-After": "60"},
                    )
                db.execute(
                    "INSERT INTO jobs (id, number, kind, status, by, config, created) VALUES "
                    "(?, (SELECT coalesce(max(number), 0) + 1 FROM jobs), ?, 'queued', ?, ?, ?)",
                    (job_id, kind, by, self._config.model_dump_json(), timestamp()),
                )
        self._wake.set()
        return self.job(job_id)

    def job(self, job_id: str) -> Job:
        """The job of that id.

        Raises:
            NotFound: there is none.
        """
        row = self._database.one("SELECT * FROM jobs WHERE id = ?", (job_id,))
        if row is None:
            raise NotFound(f"there is no job {job_id[:80]!r}; list them for their ids")
        return _job(row)

    def jobs(self, limit: int = 50) -> list[Job]:
        """The newest jobs, newest first."""
        rows = self._database.all("SELECT * FROM jobs ORDER BY number DESC LIMIT ?", (limit,))
        return [_job(row) for row in rows]

    def losses(self, job_id: str) -> list[tuple[int, float]]:
        """(step, loss) of what a job trains now, in order; empty when it trains nothing."""
        query = (
            "SELECT step, loss FROM losses JOIN jobs ON jobs.id = losses.job "
            "WHERE job = ? AND status = 'running' ORDER BY step"
        )
        return [(row["step"], row["loss"]) for row in self._database.all(query, (job_id,))]

    def cancel(self, job_id: str) -> Job:
        """End a job; what it finished is kept.

        Raises:
            NotFound: there is none.
            HttpFailure: it has ended already.
        """
        with self._database.change() as db:
            row = db.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone()
            if row is None:
                raise NotFound(f"there is no job {job_id[:80]!r}; list them for their ids")
            if row["status"] not in ("queued", "running"):
                raise HttpFailure(
                    409, f"job {row['number']} is {row['status']} already", code="ended"
                )
            db.execute(
                "UPDATE jobs SET status = 'cancelled', ended = ? WHERE id = ?",
                (timestamp(), job_id),
            )
        _end_process(row["pid"], row["pid_born"])
        self._wake.set()
        return self.job(job_id)

    def close(self) -> None:
        """Stop watching; a running job goes on."""
        self._stop.set()
        self._wake.set()
        self._thread.join(timeout=_PATIENCE_S)

    # --- the thread -------------------------------------------------------------------------

    def _watch(self) -> None:
        while not self._stop.is_set():
            try:
                self._step()
            except Exception:  # the watch must outlive a full disk or a locked database
                _log.exception("jobs could not be looked after")
            self._wake.wait(_EVERY_S)
            self._wake.clear()

    def _step(self) -> None:
        """Look after the running job, or start the next."""
        # Reaps the worker, so that a dead one does not look alive.
        starting = self._process is not None and self._process.poll() is None
        row = self._database.one("SELECT * FROM jobs WHERE status = 'running'")
        if row is not None and not _alive(row["pid"], row["pid_born"]):
            self._bury(row)
            row = None
        # Not what ran at the last look: a short job may begin and end between two.
        if (ended := self._count_ended()) != self._ended:
            self._ended = ended
            self._tell_end()
        if row is None and not starting:
            queued = self._database.one(
                "SELECT * FROM jobs WHERE status = 'queued' ORDER BY number"
            )
            if queued is not None:
                self._launch(queued)

    def _count_ended(self) -> int:
        row = self._database.one(
            "SELECT count(*) AS n FROM jobs WHERE started != '' AND status IN "
            "('done', 'failed', 'cancelled')"
        )
        return int(row["n"]) if row is not None else 0

    def _tell_end(self) -> None:
        try:
            self._on_end()
        except Exception:  # what a job left behind may be of no use; the next one may mend it
            _log.exception("what a job has made could not be opened")

    def _launch(self, row: sqlite3.Row) -> None:
        if row["attempts"] >= _ATTEMPTS:
            self._bury(row)
            return
        with self._database.change() as db:
            db.execute("UPDATE jobs SET attempts = attempts + 1 WHERE id = ?", (row["id"],))
        # The id is ours and the command fixed: nothing of the network's gets into it. The worker
        # itself takes the job, so that of two that a killed server leaves behind only one works.
        self._process = subprocess.Popen(
            [sys.executable, "-m", WORKER, str(self._database.path), row["id"]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _bury(self, row: sqlite3.Row) -> None:
        """A worker that is gone without a word: once more, then a failure."""
        again = row["attempts"] < _ATTEMPTS
        with self._database.change() as db:
            db.execute(
                "UPDATE jobs SET status = ?, ended = ?, error = ? WHERE id = ? AND status IN "
                "('running', 'queued')",
                (
                    "queued" if again else "failed",
                    "" if again else timestamp(),
                    ""
                    if again
                    else "the worker process ended without a word, perhaps for want of memory; "
                    "start the job again, finished work is kept",
                    row["id"],
                ),
            )


def _job(row: sqlite3.Row) -> Job:
    return Job(
        id=row["id"],
        number=row["number"],
        kind=row["kind"],
        status=row["status"],
        by=row["by"],
        created=row["created"],
        started=row["started"],
        ended=row["ended"],
        stage=row["stage"],
        done=row["done"],
        total=row["total"],
        note=row["note"],
        stages=tuple((name, cached) for name, cached in json.loads(row["stages"])),
        result=json.loads(row["result"]),
        error=row["error"],
    )


def _alive(pid: int, born: float) -> bool:
    """Whether that very process still runs; its number may have passed to another."""
    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - born) < 1.0
        return bool(same and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _end_process(pid: int, born: float) -> None:
    """Ask a worker and its children to end, and make them if they do not."""
    if not pid or not _alive(pid, born):
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGTERM)

    def insist() -> None:
        with contextlib.suppress(psutil.Error):
            psutil.Process(pid).wait(_PATIENCE_S)
        if _alive(pid, born):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)

    threading.Thread(target=insist, daemon=True).start()
