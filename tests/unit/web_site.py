"""A small domain with a finished run behind the web app, and a model that quotes its passages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from domainlm.artifacts import dump_json, write_atomic
from domainlm.config import Config
from domainlm.models.fake import FakeModel
from domainlm.schema import Chat, RunResult
from tests.unit import server_site
from tests.unit.report_sample import sample

HOSTILE = '<script>alert(1)</script><img src=x onerror=alert(1)>"&\u202e'


def quoting(chat: Chat) -> str:
    """The first sentence of the prompt that shares a word with the question, else a refusal."""
    prompt = chat[-1].content
    question = prompt.strip().splitlines()[-1]
    wanted = {w for w in re.findall(r"\w{4,}", question.lower())}
    lines = [s for s in re.split(r"(?<=[.!?])\s+|\n", prompt) if s.strip() and "?" not in s]
    best = max(lines, key=lambda s: len(wanted & set(re.findall(r"\w{4,}", s.lower()))), default="")
    return best.strip()


def with_run(config: Config, **more: object) -> Config:
    """Puts a finished run of five arms into the folder."""
    result = sample(**more)
    write_atomic(config.folder / "result.json", dump_json(RunResult, result))
    return config


def scripted(patch: pytest.MonkeyPatch) -> None:
    """Every model of the server quotes its passages."""
    patch.setattr(
        "domainlm.server.loaded.load_model", lambda config, place=None: FakeModel(quoting)
    )


def demo(folder: Path, **settings: object) -> Config:
    """The small domain with its run."""
    return with_run(server_site.domain(folder, **settings))
