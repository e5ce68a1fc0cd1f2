"""A module imports only lower floors: arrows that run up fail here, deferred ones included."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "domainlm"
FLOORS = {
    "schema": 0,
    "errors": 0,
    "config": 1,
    "artifacts": 1,
    "memory": 1,
    "tokens": 1,
    "stats": 1,
    "exclusions": 1.4,
    "registry": 1.5,
    "corpus": 2,
    "models": 2,
    "stores": 2,
    "asking": 2.5,
    "fusion": 2.5,
    "retrieval": 3,
    "graph": 3,
    "rag": 4,
    "evaluation": 5,
    "feedback": 5.5,
    "training": 6,
    "provenance": 6.2,
    "contenders": 6.5,
    "retriever_tuning": 6.55,
    "optimize": 6.5,
    "diagnose": 6.5,
    "bench": 6.6,
    "controls": 6.65,
    "doubts": 6.65,
    "fetching": 6.65,
    "repeats": 6.65,
    "timing": 6.65,
    "power": 6.7,
    "pricing": 6.7,
    "paired": 6.7,
    "history": 6.8,
    "ground": 6.9,
    "experiment": 7,
    "corrections": 7.1,
    "improve": 7.2,
    "planning": 7,
    "ladder": 7.2,
    "finished": 7.3,
    "actions": 7.5,
    "intake": 7.2,
    "starter": 7,
    "doctor": 7,
    "report": 8,
    "server": 9,
    "display": 9,
    "cli": 10,
}
TORCH_ROOMS = {
    "models/adapted.py",
    "models/attention.py",
    "models/cache.py",
    "models/packed.py",
    "models/late.py",
    "models/local.py",
    "models/decoding.py",
    "models/ensemble.py",
    "models/embedded.py",
    "models/embedding.py",
    "models/rerank.py",
    "models/mixed.py",
    "models/running.py",
    "models/shared.py",
    "training/attention.py",
    "training/checks.py",
    "training/grpo.py",
    "training/loop.py",
    "training/lora.py",
    "training/optimizer.py",
    "training/preference.py",
    "training/retriever.py",
    "training/sft.py",
    "training/weights.py",
}
FILES = sorted(SOURCE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported(path: Path) -> list[tuple[int, str]]:
    found = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            if node.module == "domainlm":
                found += [(node.lineno, f"domainlm.{alias.name}") for alias in node.names]
            else:
                found.append((node.lineno, node.module))
        elif isinstance(node, ast.ImportFrom):
            found.append((node.lineno, "relative import"))
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_point_down(path: Path) -> None:
    if path == SOURCE / "__init__.py":
        assert not [m for _, m in imported(path) if m.startswith("domainlm")]
        return
    here = room(path)
    for line, module in imported(path):
        assert module != "relative import", f"{path}:{line}"
        if not module.startswith("domainlm."):
            continue
        there = module.split(".")[1]
        if there == "__version__":
            continue
        same = here == there
        assert same or FLOORS[there] < FLOORS[here], f"{path}:{line}: {here} imports {there}"


def test_files_are_small() -> None:
    house = SOURCE.parents[1]
    places = (SOURCE, *(house / name for name in ("tests", "benchmarks", "examples", "labs")))
    sizes = {
        str(path.relative_to(house)): len(path.read_text("utf-8").splitlines())
        for place in places
        for path in place.rglob("*.py")
    }
    assert {name: lines for name, lines in sizes.items() if lines > 500} == {}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_only_a_few_rooms_import_torch(path: Path) -> None:
    if path.relative_to(SOURCE).as_posix() in TORCH_ROOMS:
        return
    heavy = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")
    wrong = [m for _, m in imported(path) if m.split(".")[0] in heavy]
    assert not wrong


def test_import_and_help_load_no_torch() -> None:
    code = (
        "import sys, domainlm, domainlm.cli\n"
        "from typer.testing import CliRunner\n"
        "run = CliRunner().invoke\n"
        "assert run(domainlm.cli.app, ['--help']).exit_code == 0\n"
        "assert run(domainlm.cli.app, ['feedback', '--help']).exit_code == 0\n"
        "assert run(domainlm.cli.app, ['models', '--help']).exit_code == 0\n"
        "assert run(domainlm.cli.app, ['serve', '--help']).exit_code == 0\n"
        "names = ('torch', 'transformers', 'lancedb', 'numpy', 'fastapi')\n"
        "heavy = [m for m in names if m in sys.modules]\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
