"""`sinkserve db`: the database that both services share, and its schema."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from common.db import schema
from common.db.database import Database, connect
from common.settings import SettingsError, SharedSettings, read_config
from sinkserve.cli.terminal import console
from sinkserve.cli.terminal.failures import WRONG, Failure, explained

app = typer.Typer(help="The database that both services share, and its schema.")

Config = Annotated[Path | None, typer.Option("--config", help="YAML with `database_url` or `home`; variables win.")]


@app.command()
def upgrade(config: Config = None) -> None:
    """Bring the database of SINKSERVE_DATABASE_URL to this release's schema.

    Where a step does more than add, services have to be stopped before: docs/operate/versions.md.
    """
    with _opened(config) as database:
        before, after = schema.upgrade(database)
        said = f"has schema {after} already" if before == after else f"is upgraded from schema {before} to {after}"
        console.out.print(f"{escape(database.shown)} {said}")


@app.command()
def show(config: Config = None) -> None:
    """Where the database is, which schema it has, and which this release needs."""
    with _opened(config) as database:
        facts = (
            ("database", escape(database.shown)),
            ("schema", schema.version_of(database)),
            ("needed", schema.needed_version()),
        )
        console.print_facts(facts)


_STEP_S = 3600.0  # a step of the schema may rewrite a large table


@contextmanager
def _opened(config: Path | None) -> Iterator[Database]:
    with explained():
        try:
            url = SharedSettings.load(read_config(config)["shared"]).database
        except SettingsError as error:
            raise Failure(str(error), code=WRONG) from None
        database = connect(url, _STEP_S)
        try:
            yield database
        finally:
            database.close()
