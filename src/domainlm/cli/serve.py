"""`domainlm serve`, and `domainlm users` for those who may use it."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from domainlm.cli.common import AsJson, ConfigFile, Settings, load, print_json
from domainlm.errors import MissingExtraError

app = typer.Typer(
    help="Add, list and remove the users of the server.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class RoleName(StrEnum):
    """What a user may do; each includes those before it."""

    viewer = "viewer"
    rater = "rater"
    admin = "admin"


def serve(
    config: Annotated[Path, typer.Option("--config", "-c", help="The run's YAML file.")] = Path(
        "domainlm.yaml"
    ),
    host: Annotated[str, typer.Option(help="Default: serve.host, 127.0.0.1.")] = "",
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Default: serve.port, 8642; 0 takes a free one."),
    ] = None,
    override: Settings = None,
) -> None:
    """Serve the web app and the API; on this machine alone unless there are users."""
    settings = load(config, override)
    given: dict[str, Any] = {"host": host} if host else {}
    given |= {"port": port} if port is not None else {}
    settings = settings.model_copy(update={"serve": settings.serve.model_copy(update=given)})
    _extra().listen(settings, typer.echo)


@app.command()
def add(
    config: ConfigFile,
    name: Annotated[str, typer.Argument(help="Letters, digits, dots and dashes.")],
    role: Annotated[RoleName, typer.Option(help="viewer, rater or admin.")] = RoleName.viewer,
    ask: Annotated[bool, typer.Option("--ask", help="Type a secret instead of a new one.")] = False,
    override: Settings = None,
) -> None:
    """Add a user, or give one another role and secret; the secret is shown once."""
    users = _users(load(config, override))
    typed = typer.prompt("Secret", hide_input=True, confirmation_prompt=True) if ask else ""
    secret = users.add(name, role.value, typed)
    typer.echo(f"{name} is a {role.value} now." + ("" if ask else f" Secret: {secret}"))


@app.command("list")
def list_users(config: ConfigFile, override: Settings = None, as_json: AsJson = False) -> None:
    """List the users and their roles."""
    accounts = _users(load(config, override)).accounts().values()
    if as_json:
        print_json([{"name": a.name, "role": a.role} for a in accounts])
        return
    for account in accounts:
        typer.echo(f"{account.name}  {account.role}")
    if not accounts:
        typer.echo("There are no users; `domainlm users add` makes one.")


@app.command()
def remove(
    config: ConfigFile,
    name: Annotated[str, typer.Argument(help="Whom.", show_default=False)],
    override: Settings = None,
) -> None:
    """Remove a user; sessions and tokens end at once."""
    _users(load(config, override)).remove(name)
    typer.echo(f"{name} is removed.")


def _users(config: Any) -> Any:
    from domainlm.server.auth import users_of

    return users_of(config)


def _extra() -> Any:
    """The module that listens, which needs an extra.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        from domainlm.server import listen
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("domainlm"):
            raise
        raise MissingExtraError(
            f"the server needs the package {error.name}; run: pip install 'domainlm[serve]'"
        ) from None
    return listen
