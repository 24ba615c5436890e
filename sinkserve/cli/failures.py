"""What a person reads when something failed: the message, what it is about, and what to do. Never a traceback."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.markup import escape

from common import errors as common_errors
from sinkserve.cli.console import err
from sinkserve.client import InvalidArgument, NotFound, OutOfRange, SinkServeError, Unreachable

FAILED, WRONG, UNREACHABLE, NOT_FOUND, INTERRUPTED = 1, 2, 3, 4, 130

_HINTS = {
    "ENGINE_NOT_FOUND": "`sinkserve engines list` shows what there is, `sinkserve build SPEC.yaml` makes one",
    "ENGINE_NOT_LOADED": "`sinkserve engines load REFERENCE` loads it",
    "ENGINE_IN_USE": "`sinkserve engines loaded` and `sinkserve sessions list` show what uses it",
    "BUILD_NOT_FOUND": "`sinkserve builds list` shows what there is",
    "SESSION_NOT_FOUND": "`sinkserve sessions list` shows what there is",
    "SOURCE_NOT_ALLOWED": "the builder reads checkpoints only under SINKSERVE_BUILDER_SOURCE_ROOTS",
    "SYSTEM_PROMPT_EXCEEDS_SINKS": "leave out --pin, or shorten the system prompt, or build with more sinks",
    "TURN_EXCEEDS_WINDOW": "say it in several turns, or build with a larger window",
    "SESSION_TAKEN_OVER": "the session goes on where it was opened last",
}

AnyError = SinkServeError | common_errors.SinkServeError


class Failure(Exception):
    """A command failed for a reason of its own; `hint` says what to do."""

    def __init__(self, message: str, *, hint: str = "", code: int = FAILED) -> None:
        super().__init__(message)
        self.hint = hint
        self.code = code


@contextmanager
def explained() -> Iterator[None]:
    """Turn what commands raise into words on stderr and an exit code."""
    try:
        yield
    except (SinkServeError, common_errors.SinkServeError) as error:
        explain(error)
        raise typer.Exit(exit_code(error)) from None
    except Failure as error:
        _print(str(error), hint=error.hint)
        raise typer.Exit(error.code) from None
    except UnicodeError as error:
        _print(f"not UTF-8: {error}")
        raise typer.Exit(WRONG) from None
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise typer.Exit(INTERRUPTED) from None


def explain(error: AnyError) -> None:
    """Print an error: message, reason, fields, and a hint."""
    if isinstance(error, Unreachable):
        _print(f"nobody answers at {error.address}", hint=_hint(error))
        return
    _print(error.message, reason=str(error.reason), hint=_hint(error))
    for violation in error.violations:
        if violation.description != error.message:
            err.print(f"  [bold]{escape(violation.field)}[/]: {escape(violation.description)}")
        elif violation.field not in error.message:
            err.print(f"  [dim]field[/] {escape(violation.field)}")


def exit_code(error: AnyError) -> int:
    """The exit code for an error."""
    if isinstance(error, Unreachable):
        return UNREACHABLE
    if isinstance(error, (NotFound, common_errors.NotFound)):
        return NOT_FOUND
    wrong = (InvalidArgument, OutOfRange, common_errors.InvalidArgument, common_errors.OutOfRange)
    return WRONG if isinstance(error, wrong) else FAILED


def _hint(error: AnyError) -> str:
    if isinstance(error, Unreachable):
        return (
            "`sinkserve serve` starts a builder and a runtime here; SINKSERVE_CLIENT_BUILDER and "
            "SINKSERVE_CLIENT_RUNTIME, or --builder and --runtime, name others"
        )
    if error.retry_after_s:
        return f"try again in {error.retry_after_s:.0f} s"
    return _HINTS.get(str(error.reason), "")


def _print(message: str, *, reason: str = "", hint: str = "") -> None:
    tail = f" [dim]({reason})[/]" if reason else ""
    err.print(f"[bold red]error[/] {escape(message)}{tail}")
    if hint:
        err.print(f"[dim]hint[/]  {escape(hint)}")
