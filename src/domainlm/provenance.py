"""Where a result comes from: digests of inputs, versions, hardware, and how often test was used."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path

import psutil

from domainlm import __version__
from domainlm.artifacts import digest, digest_file, writing
from domainlm.config import Config
from domainlm.errors import DataError
from domainlm.evaluation.cost import PriceBook
from domainlm.schema import Adapter, Question

_PACKAGES = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "lancedb",
    "numpy",
    "scipy",
    "graspologic-native",
)
_TOUCHES = "test_touches.jsonl"


def folder_digest(folder: Path) -> list[tuple[str, str]]:
    """(relative path, SHA-256) of every file below `folder`, sorted.

    Raises:
        DataError: the folder does not exist.
    """
    if not folder.is_dir():
        raise DataError(f"documents folder {folder} does not exist; set documents= to yours")
    return sorted(
        (path.relative_to(folder).as_posix(), digest_file(path))
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink() and not _ignored(path.relative_to(folder))
    )


def _ignored(path: Path) -> bool:
    """Hidden files and office locks, which no reader opens either."""
    return any(part.startswith((".", "~$")) for part in path.parts)


def format_of(config: Config) -> tuple[str, ...]:
    """What the way of reading questions adds to a key: nothing for plain files."""
    return () if config.format == "auto" else (config.format,)


def documents_digest(config: Config) -> object:
    """Digest of every document file, or of the public set that holds the documents.

    Raises:
        DataError: there is nothing at that place.
    """
    if config.format != "auto" and config.documents == config.questions:
        return (file_digest(config.questions), config.format)
    return folder_digest(config.documents)


def refuse_mixed_folders(config: Config) -> None:
    """Questions or results inside the documents folder would be indexed with their answers; a
    public set keeps the two apart by itself.

    Raises:
        DataError: one of them lies there.
    """
    documents = config.documents.resolve()
    own = config.format != "auto" and config.documents == config.questions
    for name, path in (("questions", config.questions), ("output", config.output)):
        if own and name == "questions":
            continue
        if path.resolve().is_relative_to(documents):
            raise DataError(
                f"{name} {path} lies inside the documents folder {config.documents}, where it "
                "would be read as a document; move one of them"
            )


def file_digest(path: Path) -> str:
    """SHA-256 of the questions file, or of every file of a questions folder.

    Raises:
        DataError: there is no such file.
    """
    if path.is_dir():
        return digest(folder_digest(path))
    if not path.exists():
        raise DataError(f"questions file {path} does not exist; set questions= to yours")
    return digest_file(path)


def touch_test(output: Path, test: Sequence[Question], score_key: str) -> int:
    """Count how many different sets of answers this test set has scored under `output`.

    A resumed or repeated run counts once; each new configuration that looks at the same test
    questions adds one, and makes its best score a little more flattering.
    """
    # By the questions alone: new documents do not make an old test set fresh.
    test_key = digest([(q.id, q.text, q.references) for q in test])
    path = output / _TOUCHES
    seen: set[tuple[str, str]] = set()
    if path.exists():
        for line in path.read_text("utf-8").splitlines():
            try:
                entry = json.loads(line)
                seen.add((entry["test"], entry["scores"]))
            except (ValueError, KeyError, TypeError):
                continue
    if (test_key, score_key) not in seen:
        with writing(path), path.open("a", encoding="utf-8") as stream:
            # A torn line of a killed writer must not swallow this one.
            stream.write("\n" + json.dumps({"test": test_key, "scores": score_key}) + "\n")
        seen.add((test_key, score_key))
    return sum(key == test_key for key, _ in seen)


def collect(
    config: Config,
    embedder: str,
    corpus_key: str,
    split_key: str,
    prices: PriceBook,
    adapters: Sequence[Adapter],
) -> dict[str, str]:
    """Versions, hardware, digests and dates, as strings for the report."""
    facts = {
        "domainlm": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_cores": str(os.cpu_count() or 0),
        "memory_gb": f"{psutil.virtual_memory().total / 2**30:.1f}",
        "model": config.model,
        "embedder": embedder,
        "documents_digest": corpus_key,
        "questions_digest": split_key,
        "prices_as_of": str(min(p.as_of for p in prices.items.values())),
        "seed": str(config.seed),
        "split_seed": str(config.split.seed),
    }
    facts |= {f"adapter_{a.name}": a.digest for a in adapters}
    return facts | versions()


def versions() -> dict[str, str]:
    """Versions of the packages that results depend on."""
    found = {}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
