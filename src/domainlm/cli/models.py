"""The commands of continuous tuning: improve, models, why, forget."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from domainlm.cli.common import AsJson, ConfigFile, Settings, Trust, bars, load, print_json

ModelName = Annotated[
    str, typer.Argument(help="An id, its first digits, or champion.", show_default=False)
]
app = typer.Typer(
    help="List, show, promote and roll back trained models.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def improve(
    config: ConfigFile,
    corrections: Annotated[
        Path | None,
        typer.Option(
            help="Corrected answers (default: corrections.jsonl beside the questions, if there)."
        ),
    ] = None,
    trust: Trust = None,
    override: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Train a challenger on all feedback so far, gate it, and promote it if it is better."""
    from domainlm.improve import improve as do

    with bars(as_json) as shown:
        done = do(load(config, override), corrections, shown, trust=trust)
    if as_json:
        print_json(asdict(done))
        return
    from domainlm.display.models import show_round

    show_round(done)


@app.command("list")
def list_models(config: ConfigFile, override: Settings = None, as_json: AsJson = False) -> None:
    """List every model with its status, its rows and what the gate said."""
    from domainlm.registry import registry_of

    registry = registry_of(load(config, override))
    origins = [registry.origin(r.id) for r in registry.models()]
    if as_json:
        print_json(
            [
                {
                    "id": o.record.id,
                    "arm": o.record.arm,
                    "status": o.status,
                    "created_at": o.record.created_at,
                    "rows": o.record.rows,
                    "decision": o.gates[-1].result.decision if o.gates else None,
                    "tainted_by": o.taint,
                    "parent": o.record.parent,
                }
                for o in origins
            ]
        )
        return
    from domainlm.display.models import show_models

    show_models(origins)


@app.command("show")
def show_model(
    config: ConfigFile, model: ModelName, override: Settings = None, as_json: AsJson = False
) -> None:
    """Show one model: what it was made of and each condition of its gates."""
    from domainlm.registry import registry_of

    origin = registry_of(load(config, override)).origin(model)
    if as_json:
        print_json({**asdict(origin), "parent": origin.record.parent})
        return
    from domainlm.display.models import show_origin

    show_origin(origin)


@app.command()
def promote(
    config: ConfigFile,
    model: ModelName,
    force: Annotated[
        bool, typer.Option("--force", help="Even where the gate did not say PROMOTE.")
    ] = False,
    reason: Annotated[str, typer.Option(help="Kept in the history.")] = "by hand",
    override: Settings = None,
) -> None:
    """Make a model the champion; without --force only if the gate said so."""
    from domainlm.registry import registry_of

    registry = registry_of(load(config, override))
    champion = registry.champion()
    made = registry.promote(
        registry.model(model).id,
        over=champion.model if champion else "",
        reason=reason,
        action="force" if force else "promote",
    )
    typer.echo(f"Champion: {made.model}. `domainlm models rollback {config}` goes back.")


@app.command()
def rollback(
    config: ConfigFile,
    to: Annotated[str, typer.Option(help="An earlier champion (default: the one before).")] = "",
    reason: Annotated[str, typer.Option(help="Kept in the history.")] = "by hand",
    override: Settings = None,
) -> None:
    """Go back to an earlier champion, bit for bit."""
    from domainlm.registry import registry_of

    made = registry_of(load(config, override)).rollback(to, reason)
    typer.echo(f"Champion: {made.model}, as it was; its files have the digests of their manifest.")


@app.command()
def prune(config: ConfigFile, override: Settings = None, as_json: AsJson = False) -> None:
    """Delete the weights of models that nothing leads back to; their lineage stays."""
    from domainlm.registry import registry_of

    freed = registry_of(load(config, override)).collect()
    if as_json:
        print_json(freed)
    else:
        typer.echo(f"Deleted the weights of {len(freed)} models. {' '.join(freed)}".strip())


def why(
    config: ConfigFile,
    model: Annotated[str, typer.Argument(help="An id or its first digits.")] = "champion",
    override: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Walk from a model back to the events, documents and settings that made it."""
    from domainlm.registry import registry_of

    origin = registry_of(load(config, override)).origin(model)
    if as_json:
        print_json(asdict(origin))
        return
    from domainlm.display.models import show_why

    show_why(origin)


def forget(
    config: ConfigFile,
    item: Annotated[
        str, typer.Argument(help="Id of a feedback event or a document.", show_default=False)
    ],
    reason: Annotated[str, typer.Option(help="Kept with the entry.")] = "",
    override: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Keep an event or a document out of all training, and say which models learned from it."""
    from domainlm.registry import registry_of

    registry = registry_of(load(config, override))
    tainted = registry.forget(item, reason)
    champion = registry.champion()
    stained = champion is not None and champion.model in [r.id for r in tainted]
    if as_json:
        print_json(
            {
                "forgotten": item,
                "tainted": [{"id": r.id, "status": registry.status(r.id)} for r in tainted],
                "retrain": stained,
            }
        )
        return
    from domainlm.display.models import show_forgotten

    show_forgotten(item, [(r.id, registry.status(r.id)) for r in tainted], stained, config)
