"""What a person reads when something failed: the message, what it is about, and what to do. Never a traceback."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.markup import escape

from common import errors as common_errors
from sinkserve.cli.terminal.console import err
from sinkserve.client import InvalidArgument, NotFound, OutOfRange, SinkServeError, Unreachable

FAILED, WRONG, UNREACHABLE, NOT_FOUND, INTERRUPTED = 1, 2, 3, 4, 130

HINTS = {
    "ENGINE_NOT_FOUND": "`sinkserve engines list` shows what there is, `sinkserve build SPEC.yaml` makes one",
    "ENGINE_NOT_LOADED": "`sinkserve engines load REFERENCE` loads it",
    "ENGINE_IN_USE": "`sinkserve engines loaded` and `sinkserve sessions list` show what uses it",
    "BUILD_NOT_FOUND": "`sinkserve builds list` shows what there is",
    "SESSION_NOT_FOUND": "`sinkserve sessions list` shows what there is",
    "TURN_NOT_FOUND": "`sinkserve sessions show SESSION` has the ids of its turns",
    "WRONG_LISTENER": "--admin HOST:PORT, or SINKSERVE_CLIENT_RUNTIME_ADMIN and SINKSERVE_CLIENT_BUILDER_ADMIN, name "
    "where administration is answered",
    "CREDENTIALS_MISSING": "--token-file FILE, or SINKSERVE_CLIENT_TOKEN_FILE, says who you are",
    "CREDENTIALS_EXPIRED": "get another token from your identity provider",
    "ROLE_MISSING": "whoever runs the server gives roles, in its SINKSERVE_AUTH_POLICY",
    "SOURCE_NOT_ALLOWED": "the builder reads checkpoints only under SINKSERVE_BUILDER_SOURCE_ROOTS",
    "SOURCE_NOT_FOUND": "check the path on the machine that reads it, and that the download is whole",
    "CHECKPOINT_INVALID": "download that file again; `sha256sum` tells whether it is the publisher's",
    "ARCHITECTURE_UNSUPPORTED": "docs/adding-a-family.md says which there are, and how another is added",
    "CONFIG_UNSUPPORTED": "if, and only if, the field changes nothing that the model computes, "
    "`--set 'options.ignore_config_fields=[NAME]'` leaves it out",
    "OUT_OF_MEMORY": "free some, or build with `--set precision=int8` or int4, a smaller window or fewer slots",
    "OUT_OF_DISK": "free some there, or give the builder a larger SINKSERVE_HOME; nothing of the build is left behind",
    "VERIFICATION_FAILED": "build with a wider precision; if fp32 fails as well, the fault is SinkServe's: report it",
    "TOOLCHAIN_FAILED": "its words are above; another version of it, or another target, may take the model",
    "STORE_CORRUPT": "building the same spec again replaces the wrong file; if it comes back, suspect the disk",
    "BUILD_CANCELLED": "`sinkserve build SPEC.yaml` starts again; nothing was published",
    "BUILD_TIMED_OUT": "the log says how far it came; let it take longer, or give the builder more processors",
    "BUILD_CRASHED": "the log has its last words; if it happens again, report it with them",
    "WORKER_LOST": "the builder's own log, or the machine's, says what ended it; then build again",
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
        if error.tls:
            _print(f"{error.address}: {error.tls}", hint=hint(error))
            return
        through = f" through the proxy {error.proxy}" if error.proxy else ""
        _print(f"nobody answers at {error.address}{through}", hint=hint(error))
        return
    _print(error.message, reason=str(error.reason))
    for violation in error.violations:
        if violation.description not in error.message:
            err.print(f"  [bold]{escape(violation.field)}[/]: {escape(violation.description)}")
        elif violation.field not in error.message:
            err.print(f"[dim]field[/] {escape(violation.field)}")
    _print_hint(hint(error))


def exit_code(error: AnyError) -> int:
    """The exit code for an error."""
    if isinstance(error, Unreachable):
        return UNREACHABLE
    if isinstance(error, (NotFound, common_errors.NotFound)):
        return NOT_FOUND
    wrong = (InvalidArgument, OutOfRange, common_errors.InvalidArgument, common_errors.OutOfRange)
    return WRONG if isinstance(error, wrong) else FAILED


def hint(error: AnyError) -> str:
    """What to do next; empty where the message says it."""
    if isinstance(error, Unreachable) and error.tls:
        return "--tls, --ca FILE, --cert FILE and --key FILE, or SINKSERVE_CLIENT_TLS, _CA, _CERT and _KEY, say how"
    if isinstance(error, Unreachable) and error.proxy:
        return f"no_proxy={error.address.rpartition(':')[0]} goes there without the proxy"
    if isinstance(error, Unreachable):
        return (
            "`sinkserve serve` starts a builder and a runtime here; SINKSERVE_CLIENT_BUILDER and "
            "SINKSERVE_CLIENT_RUNTIME, or --builder and --runtime, name others"
        )
    if error.retry_after_s:
        return f"try again in {error.retry_after_s:.0f} s"
    return HINTS.get(str(error.reason), "")


def _print(message: str, *, reason: str = "", hint: str = "") -> None:
    tail = f" [dim]({reason})[/]" if reason else ""
    err.print(f"[bold red]error[/] {escape(message)}{tail}")
    _print_hint(hint)


def _print_hint(hint: str) -> None:
    if hint:
        err.print(f"[dim]hint[/]  {escape(hint)}")
