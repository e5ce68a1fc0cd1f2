"""Commands about money and numbers of questions."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from domainlm.cli.common import (
    AsJson,
    ConfigFile,
    CostSettings,
    Settings,
    load,
    print_json,
)
from domainlm.errors import ConfigError


def roi(config: ConfigFile, override: CostSettings = None, as_json: AsJson = False) -> None:
    """Price a finished run again: break-evens, flip points, tornado, the worth of knowing more."""
    from domainlm.actions import roi as do
    from domainlm.config import Config

    # A misspelt name is looked for among the settings of cost, too.
    named = [
        s if "." in (key := s.partition("=")[0]) or key in Config.model_fields else f"cost.{s}"
        for s in override or []
    ]
    result = do(load(config, named))
    if as_json:
        parts = ("verdict", "standings", "money", "break_evens", "roi")
        print_json({p: _plain(getattr(result, p)) for p in parts})
        return
    from domainlm.display.money import show_roi

    show_roi(result)


def plan(
    config: Annotated[
        Path | None, typer.Argument(help="A finished run to learn from.", show_default=False)
    ] = None,
    gap: Annotated[float, typer.Option(help="Points to be found.")] = 5.0,
    power: Annotated[float, typer.Option(help="Chance of finding them.")] = 0.8,
    comparisons: Annotated[int, typer.Option(help="Comparisons in the family.")] = 1,
    arms: Annotated[str, typer.Option(help="Two arms of the run, e.g. raft,rag.")] = "",
    discordance: Annotated[
        float, typer.Option(help="Without a run: share of questions on which the arms differ.")
    ] = 0.3,
    icc: Annotated[float, typer.Option(help="Without a run: correlation within a document.")] = 0.2,
    per_document: Annotated[
        float, typer.Option(help="Without a run: questions about each document.")
    ] = 4.0,
    override: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Say how many questions about how many documents find a gap, from a run or assumptions."""
    from domainlm import power as planner

    share = gap / 100
    if arms and not config:
        raise ConfigError(f"--arms {arms!r} needs a finished run; add its YAML file")
    if config:
        from domainlm.experiment import load_result

        first, _, second = arms.partition(",")
        result = load_result(load(config, override).folder)
        spread = planner.measured(result, first.strip(), second.strip())
    else:
        spread = planner.assumed(share, discordance=discordance, icc=icc, per_document=per_document)
    found = planner.design(share, spread, power=power, comparisons=comparisons)
    if as_json:
        print_json(asdict(found))
        return
    from domainlm.display.money import show_design

    show_design(found)


def _plain(value: Any) -> Any:
    return [asdict(v) for v in value] if isinstance(value, tuple) else asdict(value)
