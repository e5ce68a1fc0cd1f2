"""The command line: parse, call, print. Every deliberate failure exits 2 with one sentence."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from typing import Annotated, NoReturn

import typer

from domainlm import __version__
from domainlm.cli import build, feedback, look, models, money, runs, serve
from domainlm.errors import DomainLMError

app = typer.Typer(
    name="domainlm",
    help="RAG, fine-tuning or both? Build all of them on your documents, measure, decide.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    build.init,
    build.doctor,
    build.ingest,
    build.graph,
    build.optimize,
    build.train,
    build.run,
    look.ask,
    look.report,
    look.show,
    look.diagnose,
    money.roi,
    money.plan,
    runs.recommend,
    runs.compare,
    runs.score,
    runs.history,
    runs.gate,
    models.improve,
    models.why,
    models.forget,
    serve.serve,
):
    app.command()(command)
app.add_typer(feedback.app, name="feedback")
app.add_typer(models.app, name="models")
app.add_typer(serve.app, name="users")


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


def main() -> NoReturn:
    """Entry point: libraries are quiet, and the hub is offline unless `allow_download` is set."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore")
    logging.disable(logging.INFO)
    try:
        app()
    except DomainLMError as error:
        sentence = "".join(c if c.isprintable() else " " for c in str(error))
        typer.echo(f"domainlm: {sentence}", err=True)
        sys.exit(2)
    sys.exit(0)
