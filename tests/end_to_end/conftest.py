"""A small real domain and a tiny real checkpoint: whole runs in seconds."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import warnings
from pathlib import Path
from unittest import mock

import pytest

from domainlm.cli import main

REPO = Path(__file__).parents[2]
EXAMPLE = REPO / "examples" / "aldervale"
PLANTS = 10


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two random layers behind the embedded model's tokenizer and chat template."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from domainlm.models.embedded import ensure_checkpoint

    source = ensure_checkpoint()
    tokenizer = AutoTokenizer.from_pretrained(source)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        bos_token_id=1,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )
    folder = tmp_path_factory.mktemp("tiny")
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def domain(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """Some plants' papers with their questions, two unreadable files, and a configuration."""
    folder = tmp_path_factory.mktemp("domain")
    rows = [json.loads(x) for x in (EXAMPLE / "questions.jsonl").read_text("utf-8").splitlines()]
    sites = sorted((EXAMPLE / "documents" / "sites").iterdir())[:PLANTS]
    contracts = sorted((EXAMPLE / "documents" / "contracts").iterdir())[:PLANTS]
    kept = {p.relative_to(EXAMPLE / "documents").as_posix() for p in [*sites, *contracts]}
    for name in kept:
        target = folder / "documents" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(EXAMPLE / "documents" / name, target)
    (folder / "documents" / "empty.pdf").write_bytes(b"")
    (folder / "documents" / "picture.pdf").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 64)
    rows = [r for r in rows if set(r["doc_ids"]) <= kept]
    (folder / "questions.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), "utf-8")
    (folder / "domainlm.yaml").write_text(
        f"documents: documents\nquestions: questions.jsonl\nmodel: local:{tiny_checkpoint}\n"
        "name: tiny\nbudget: smoke\n"
        "training: {checkpoint_every_s: 0.2, tuned_rows: 24, raft_rows: 16, batch_size: 4, "
        "synthesis: {passages: 2}}\n"
        "decoding: {max_tokens: 8}\nevaluation: {max_questions: 24, dev_questions: 8}\n",
        "utf-8",
    )
    return folder


_NO_NETWORK = """
import socket
_connect = socket.socket.connect
def connect(self, address):
    if self.family != socket.AF_UNIX:
        raise AssertionError(f"network use: {address}")
    return _connect(self, address)
socket.socket.connect = connect
def refuse(*a, **k): raise AssertionError(f"name look-up: {a}")
socket.getaddrinfo = refuse
"""


@pytest.fixture(scope="session")
def offline(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment of a child whose sockets refuse to connect."""
    folder = tmp_path_factory.mktemp("offline")
    (folder / "sitecustomize.py").write_text(_NO_NETWORK)
    return {**os.environ, "PYTHONPATH": str(folder), "OMP_WAIT_POLICY": "passive"}


def _hear_interrupts() -> None:
    """A shell starts what runs in the background deaf to interrupts, and children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def domainlm(*words: object, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """Start the command line in a child process."""
    return subprocess.Popen(
        [sys.executable, "-m", "domainlm.cli", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
        preexec_fn=_hear_interrupts,  # noqa: PLW1509
    )


def inside(*words: object) -> tuple[int, str, str]:
    """Run the command line in this process, without the seconds that importing torch takes;
    (exit code, standard output, standard error). Sockets refuse to connect here too.
    """

    def refuse(self: socket.socket, address: object) -> None:
        raise AssertionError(f"network use: {address}")

    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["domainlm", *map(str, words)]),
        mock.patch.object(socket.socket, "connect", refuse),
        mock.patch.dict(os.environ),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        warnings.catch_warnings(),
        pytest.raises(SystemExit) as ended,
    ):
        main()
    logging.disable(logging.NOTSET)
    return int(ended.value.code or 0), out.getvalue(), err.getvalue()
