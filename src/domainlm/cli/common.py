"""What all commands of the command line share: arguments, the configuration, progress, JSON."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

ConfigFile = Annotated[Path, typer.Argument(help="The run's YAML file.", show_default=False)]
Trust = Annotated[
    float | None,
    typer.Option(
        min=-1,
        max=1,
        show_default=False,
        help="A judge may train if its alpha with people is surely at least this (default: .667).",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="An override such as output=elsewhere; may be repeated."),
]
CostSettings = Annotated[
    list[str] | None,
    typer.Option("--set", help="A setting of cost such as volume=50000; may be repeated."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Overrides such as budget=smoke or training.rank=8.", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show what would run, with minutes and dollars, and stop.")
]
Resume = Annotated[
    bool,
    typer.Option("--resume/--fresh", help="Continue finished work, or set it aside and start."),
]


def load(path: Path, overrides: list[str] | None) -> Any:
    """The configuration; the hub stays offline unless it allows downloads."""
    from domainlm.config import load_config

    config = load_config(path, overrides or [])
    if not config.allow_download:
        os.environ["HF_HUB_OFFLINE"] = "1"
    return config


@contextlib.contextmanager
def bars(quiet: bool) -> Iterator[Any]:
    """Progress bars around long work; an interruption ends with a sentence and not with a trace."""
    from domainlm.display.progress import Bars

    try:
        with Bars(quiet) as shown:
            yield shown
    except KeyboardInterrupt:
        typer.echo("Interrupted; finished work is kept, the same command continues.", err=True)
        raise typer.Exit(130) from None


def print_json(value: Any) -> None:
    """Print a value for programs."""
    typer.echo(json.dumps(value, indent=2, default=str))


def plain_json(data: bytes) -> str:
    """JSON whose strings hold no raw control characters: it may be read in a terminal."""
    return json.dumps(json.loads(data))
