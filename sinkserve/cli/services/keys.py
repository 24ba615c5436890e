"""`sinkserve keys`: API keys of callers, whose hashes lie in a file that services read."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
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
        with _changing(path) as lines:
            lines.append(entry.line)
        typer.echo(key)
        console.err.print(f"[dim]this is the only time that it is shown; {escape(str(path))} has its hash[/]")


@app.command("list")
def list_keys(file: File = None) -> None:
    """List the keys: whose they are, and since when."""
    with explained():
        path = _path(file)
        rows = [(key.key_id, escape(key.name), key.created) for key in _keys_of(path, _read(path))]
        console.print_table(("KEY", "NAME", "CREATED"), rows, "no keys yet")


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="KEY", help="As `list` shows it.")], file: File = None
) -> None:
    """Take a key back: services refuse it within a second."""
    with explained():
        path = _path(file)
        with _changing(path) as lines:
            left = [line for line in lines if not any(key.key_id == key_id for key in _keys_of(path, line))]
            if len(left) == len(lines):
                raise Failure(f"there is no key {key_id} in {path}", code=NOT_FOUND)
            lines[:] = left


def _path(file: Path | None) -> Path:
    try:
        found = file or SharedSettings.load().auth_keys
    except SettingsError as error:
        raise Failure(str(error), code=WRONG) from None
    if found is None:
        raise Failure("where are the keys? --file FILE, or SINKSERVE_AUTH_KEYS, says so", code=WRONG)
    return found


@contextmanager
def _changing(path: Path) -> Iterator[list[str]]:
    """The lines of the file, which are written as they are left; no other command changes it meanwhile."""
    with _locked(path):
        text = _read(path)
        _keys_of(path, text)
        yield (lines := [f"{line}\n" for line in text.splitlines()])
        _write(path, lines)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """By the folder: the file itself is replaced."""
    try:
        make_private_folder(path.parent) if not path.parent.exists() else None
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise Failure(f"cannot write {path}: {error.strerror}") from None
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode(errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise Failure(f"{path}: {error}") from None


def _keys_of(path: Path, text: str) -> list[ApiKey]:
    try:
        return list(read_keys(text.encode()).values())
    except ValueError as error:
        raise Failure(f"{path}: {error}") from None


def _write(path: Path, lines: Iterable[str]) -> None:
    """Whole or not at all: services read it meanwhile."""
    try:
        part = path.with_name(f".{path.name}.{os.getpid()}")
        with open(part, "w", opener=open_private) as file:
            file.writelines(lines)
            if path.exists():  # services that read it by its group, or as its owner, still can
                found = path.stat()
                os.fchmod(file.fileno(), stat.S_IMODE(found.st_mode))
                os.fchown(file.fileno(), found.st_uid, found.st_gid)
        part.replace(path)
    except OSError as error:
        raise Failure(f"cannot write {path}: {error.strerror}") from None
