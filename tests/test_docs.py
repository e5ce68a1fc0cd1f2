"""The documentation names what exists, and what exists is documented."""

import inspect
import re
from pathlib import Path

import yaml
from pydantic import BaseModel
from typer.main import get_command

from domainlm.cli import app
from domainlm.config import Config
from domainlm.config.budgets import BUDGETS
from domainlm.rag.stages import STAGES, factory_of

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
BY_BUDGET = {
    f"{'training.' if section == 'synthesis' else ''}{section}.{name}"
    for section, values in BUDGETS["full"].items()
    for name in values
}
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


def test_every_setting_of_a_stage_is_in_the_methods() -> None:
    rows = [row.split("|")[4] for row in METHODS.splitlines() if row.startswith("| ")]
    for phase, names in STAGES.items():
        for name in names:
            own = [row for row in rows if re.search(rf"use: {name}\b", row)]
            said = {word for row in own for word in re.findall(r"\w+", row)}
            settings = inspect.signature(factory_of(phase, name)).parameters
            missing = set(settings) - said - {"resources"}
            assert not missing, f"{name}: {missing}"


def test_files_in_the_methods_exist() -> None:
    table = METHODS.split("## Phases", 1)[0]
    for name in re.findall(r"`([\w/]+(?:\.py|/))`", table):
        assert (ROOT / "src" / "domainlm" / name).exists(), name


def test_every_setting_is_documented_with_its_default() -> None:
    page = (ROOT / "docs" / "settings.md").read_text("utf-8")
    said = dict(re.findall(r"^\| `([\w.]+)` \| (.+?) \| ", page, re.M))
    assert said == _defaults(Config)


def _defaults(section: type[BaseModel], prefix: str = "") -> dict[str, str]:
    """Every setting, dotted, with its default as YAML."""
    found: dict[str, str] = {}
    for name, field in section.model_fields.items():
        kind, value = field.annotation, field.default
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found |= _defaults(kind, f"{prefix}{name}.")
        elif field.is_required():
            found[prefix + name] = "required"
        elif value == 0 and prefix + name in BY_BUDGET:
            found[prefix + name] = "by budget"
        else:
            plain = list(value) if isinstance(value, tuple) else value
            plain = str(plain) if isinstance(plain, Path) else plain
            shown = yaml.safe_dump(plain, default_flow_style=True).removesuffix("...\n").strip()
            found[prefix + name] = f"`{shown}`"
    return found


def test_make_targets_in_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in re.findall(r"`?make (\w+)", README):
        assert re.search(rf"^{target}:", makefile, re.M), target
