"""What every route needs, in one value: the run, the engine, feedback, models, jobs, users."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

from domainlm.config import Config
from domainlm.registry import Registry, registry_of
from domainlm.server.answers import Answers
from domainlm.server.audit import Audit
from domainlm.server.auth import Sessions, Users, users_of
from domainlm.server.database import Database
from domainlm.server.engine import Engine
from domainlm.server.jobs import Jobs
from domainlm.server.limits import Rates
from domainlm.server.metrics import Metrics
from domainlm.server.opinions import Opinions
from domainlm.server.papers import Papers
from domainlm.server.runs import Runs


@dataclass(frozen=True)
class Site:
    """One domain as it is served."""

    config: Config
    engine: Engine
    answers: Answers
    opinions: Opinions
    registry: Registry
    jobs: Jobs
    papers: Papers
    runs: Runs
    users: Users
    sessions: Sessions
    rates: Rates
    audit: Audit
    metrics: Metrics
    guessing: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while a secret is tried."""

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.config.folder

    def close(self) -> None:
        """Stop answering: what is being answered is cut short, what is kept stays kept."""
        self.engine.close()
        self.jobs.close()


def open_site(config: Config) -> Site:
    """Everything that serving `config` needs; models are loaded in the background.

    Raises:
        DataError: a file beside the run's folder cannot be used.
    """
    serve = config.serve
    metrics = Metrics()
    users = users_of(config)
    users.accounts()
    database = Database(config.beside("server.sqlite"))
    answers = Answers(config.asked_log)
    registry = registry_of(config)
    engine = Engine(config, registry, answers, metrics)
    return Site(
        config=config,
        engine=engine,
        answers=answers,
        opinions=Opinions(config.feedback_log, answers, engine.result),
        registry=registry,
        jobs=Jobs(database, config, on_end=engine.reload),
        papers=Papers(config),
        runs=Runs(config),
        users=users,
        sessions=Sessions(database, serve.session_hours, users),
        rates=Rates(serve.requests_per_minute),
        audit=Audit(config.beside("audit.jsonl")),
        metrics=metrics,
    )
