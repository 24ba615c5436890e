"""The commands by name. Only the one that is asked for is imported, so that `--help` answers at once."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from types import ModuleType
from typing import Annotated

import typer

from sinkserve.cli.connection import connected

HELP = """Conversations that never end, at a cost that never grows.

`sinkserve run FOLDER` builds an engine from a Hugging Face checkpoint folder and talks to it.
"""
EPILOG = (
    "Exit codes: 0 done, 1 failed, 2 wrong usage or a wrong request, 3 no server at the address, 4 not found, "
    "130 interrupted."
)


@dataclass(frozen=True)
class Entry:
    """Where a command is, and the first line of its help."""

    module: str
    name: str
    summary: str


COMMANDS: Mapping[str, Entry] = {
    "run": Entry("chat.run_folder", "run", "Build a checkpoint folder if need be, and chat with it."),
    "serve": Entry("services.serve", "serve", "Run the builder and the runtime in one process, or one of them."),
    "web": Entry(
        "services.web", "web", "Answer OpenAI's clients and browsers over HTTP, in front of a builder and a runtime."
    ),
    "build": Entry("build.submit", "build", "Build an engine from a spec."),
    "chat": Entry("chat.chat", "chat", "Talk to an engine."),
    "spec": Entry("build.spec", "app", "Write and check specs."),
    "builds": Entry("build.builds", "app", "What the builder does and did."),
    "engines": Entry("engines", "app", "Published engines, and what the runtime has loaded."),
    "sessions": Entry("sessions", "app", "Conversations that the runtime holds."),
    "usage": Entry("usage", "usage", "Turns and tokens by principal, day and engine."),
    "eval": Entry("eval", "app", "The paper's measurements on an engine: tables, JSON and plots."),
    "keys": Entry("services.keys", "app", "API keys of callers."),
    "db": Entry("services.db", "app", "The database that both services share, and its schema."),
}


def make_app(args: Sequence[str]) -> typer.Typer:
    """The command line for `args`; commands that they do not name have only their summary."""
    app = typer.Typer(
        help=HELP,
        epilog=EPILOG,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode="markdown",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    asked = next((arg for arg in args if not arg.startswith("-")), None)
    for name, entry in COMMANDS.items():
        _add(app, name, entry, is_asked=name == asked)
    return app


def _add(app: typer.Typer, name: str, entry: Entry, *, is_asked: bool) -> None:
    if not is_asked:
        app.command(name, help=entry.summary)(_nothing)
        return
    target: typer.Typer | Callable[..., None] = getattr(_load(entry.module), entry.name)
    if isinstance(target, typer.Typer):
        for each in target.registered_commands:
            assert each.callback is not None
            each.callback = connected(each.callback)
        app.add_typer(target, name=name, no_args_is_help=True)
    else:
        app.command(name)(connected(target))


def _load(module: str) -> ModuleType:
    """The module of a command; ends the process when it needs what is not installed."""
    try:
        return import_module(f"sinkserve.cli.{module}")
    except ModuleNotFoundError as error:
        extra = "web" if module == "services.web" else "serve"
        sys.exit(f"error this command needs {error.name}, which comes with: pip install 'sinkserve[{extra}]'")


def _nothing() -> None:
    """Placeholder of a command that was not asked for."""


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"sinkserve {version('sinkserve')}")
        raise typer.Exit


def _root(
    _: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """The root command; it does nothing itself."""
