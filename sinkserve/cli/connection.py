"""How commands connect: options that every command has that talks to a service, added in one place."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

_TO_A_SERVICE = frozenset({"builder", "runtime", "admin"})
"""Parameters of commands that talk to one."""
_PANEL = "Connection"


def _file(name: str, what: str) -> object:
    variable = f"SINKSERVE_CLIENT_{name.upper()}"
    option = typer.Option(
        f"--{name.replace('_', '-')}",
        metavar="FILE",
        exists=True,
        dir_okay=False,
        help=f"{what} Else {variable}.",
        rich_help_panel=_PANEL,
    )
    return Annotated[Path | None, option]


_OPTIONS: Mapping[str, tuple[object, object]] = {
    "tls": (
        Annotated[bool, typer.Option("--tls", help="Speak TLS; so do --ca, --cert.", rich_help_panel=_PANEL)],
        False,
    ),
    "ca": (_file("ca", "PEM: authorities of the server's certificate."), None),
    "cert": (_file("cert", "PEM: this client's certificate."), None),
    "key": (_file("key", "PEM: its private key."), None),
    "token": (
        Annotated[
            str | None,
            typer.Option(
                "--token",
                metavar="TOKEN",
                help="API key or token; other users here can see it: better --token-file.",
                rich_help_panel=_PANEL,
            ),
        ],
        None,
    ),
    "token_file": (_file("token_file", "Holds the token."), None),
}

given: ContextVar[Mapping[str, Any]] = ContextVar("given", default={})  # noqa: B039 - nobody can change it
"""Of these options, those that the command was called with: settings of clients."""

PLAIN: Mapping[str, Any] = {"tls": False, "ca": None, "cert": None, "key": None, "token": ""}
"""To a service of this very process, which asks nobody who they are."""


def connected(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the options, if it talks to a service."""
    signature = inspect.signature(command)
    if not _TO_A_SERVICE & set(signature.parameters) or "tls" in signature.parameters:
        return command

    @wraps(command)
    def run(*args: object, **named: object) -> None:
        given.set({name: value for name in _OPTIONS if (value := named.pop(name))})
        command(*args, **named)

    hints = get_type_hints(command, include_extras=True)
    own = [each.replace(annotation=hints[name]) for name, each in signature.parameters.items()]
    keyword = inspect.Parameter.KEYWORD_ONLY
    more = [inspect.Parameter(name, keyword, default=no, annotation=kind) for name, (kind, no) in _OPTIONS.items()]
    run.__annotations__ = hints | {each.name: each.annotation for each in more}
    run.__signature__ = signature.replace(parameters=[*own, *more])  # type: ignore[attr-defined]
    return run
