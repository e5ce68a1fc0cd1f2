"""The documentation names what exists, and what exists is documented."""

import re
from pathlib import Path

from typer.main import get_command

from domainlm.cli import app
from domainlm.rag.stages import STAGES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
METHODS = (ROOT / "docs" / "methods.md").read_text("utf-8")


def test_every_command_is_in_the_readme() -> None:
    commands = set(get_command(app).commands)  # type: ignore[attr-defined]
    named = set(re.findall(r"^\| `domainlm (\w+)", README, re.M))
    assert commands == named


def test_every_command_has_help() -> None:
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        assert command.help, name


def test_every_module_is_in_the_readme() -> None:
    source = ROOT / "src" / "domainlm"
    rooms = {
        p.name if p.is_file() else f"{p.name}/"
        for p in source.iterdir()
        if (p.suffix == ".py" and p.name not in ("__init__.py", "errors.py"))
        or (p / "__init__.py").exists()
    }
    tree = README.split("src/domainlm/", 1)[1].split("examples/", 1)[0]
    assert not {room for room in rooms if room not in tree}


def test_paths_in_the_readme_exist() -> None:
    for link in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / link).exists(), link


def test_every_stage_is_in_the_methods() -> None:
    for names in STAGES.values():
        for name in names:
            assert f"use: {name}" in METHODS, name


def test_make_targets_in_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in re.findall(r"`?make (\w+)", README):
        assert re.search(rf"^{target}:", makefile, re.M), target
