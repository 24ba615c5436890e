"""`sinkserve keys`: API keys of callers, whose hashes lie in a file that services read."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from common.auth.api_keys import ApiKey, new_key, read_keys
from common.private import make_private_folder, open_private
from common.settings import SettingsError, SharedSettings
from sinkserve.cli.terminal import console
from sinkserve.cli.terminal.failures import NOT_FOUND, WRONG, Failure, explained

app = typer.Typer(help="API keys of callers.")

File = Annotated[Path | None, typer.Option("--file", help="File of their hashes; else SINKSERVE_AUTH_KEYS.")]


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Whose it is: the principal is key:NAME.")], file: File = None
) -> None:
    """Make a key for a name, print it once, and keep its hash; a name may have several."""
    with explained():
        path = _path(file)
        try:
            key, entry = new_key(name)
        except ValueError as error:
            raise Failure(str(error), code=WRONG) from None
        _write(path, [*_read(path), entry])
        typer.echo(key)
        console.err.print(f"[dim]this is the only time that it is shown; {escape(str(path))} has its hash[/]")


@app.command("list")
def list_keys(file: File = None) -> None:
    """List the keys: whose they are, and since when."""
    with explained():
        rows = [(key.key_id, escape(key.name), key.created) for key in _read(_path(file))]
        console.print_table(("KEY", "NAME", "CREATED"), rows, "no keys yet")


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="KEY", help="As `list` shows it.")], file: File = None
) -> None:
    """Take a key back: services refuse it within a second."""
    with explained():
        path = _path(file)
        keys = _read(path)
        left = [key for key in keys if key.key_id != key_id]
        if len(left) == len(keys):
            raise Failure(f"there is no key {key_id} in {path}", code=NOT_FOUND)
        _write(path, left)


def _path(file: Path | None) -> Path:
    try:
        found = file or SharedSettings.load().auth_keys
    except SettingsError as error:
        raise Failure(str(error), code=WRONG) from None
    if found is None:
        raise Failure("where are the keys? --file FILE, or SINKSERVE_AUTH_KEYS, says so", code=WRONG)
    return found


def _read(path: Path) -> list[ApiKey]:
    try:
        return list(read_keys(path.read_bytes()).values())
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise Failure(f"{path}: {error}") from None


def _write(path: Path, keys: Iterable[ApiKey]) -> None:
    """Whole or not at all: services read it meanwhile."""
    try:
        make_private_folder(path.parent) if not path.parent.exists() else None
        part = path.with_name(f".{path.name}.{os.getpid()}")
        with open(part, "w", opener=open_private) as file:
            file.writelines(key.line for key in keys)
            if path.exists():  # services that read it by its group, or as its owner, still can
                found = path.stat()
                os.fchmod(file.fileno(), stat.S_IMODE(found.st_mode))
                os.fchown(file.fileno(), found.st_uid, found.st_gid)
        part.replace(path)
    except OSError as error:
        raise Failure(f"cannot write {path}: {error.strerror}") from None
