"""What native code of libraries raises when it panics: a BaseException that is no Exception.

Left alone, it ends a task or a thread that others wait for, and nobody hears of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

_ENDS = (KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError)


class Panicked(Exception):
    """Native code of a library panicked; the cause is what it raised."""


def pass_on_ends(error: BaseException) -> None:
    """Raise again what is to end a program or a task; any other error is for its handler, whatever its class."""
    if isinstance(error, _ENDS):
        raise error


@contextmanager
def panics_as_errors() -> Iterator[None]:
    """Raise Panicked for what native code raises that is no Exception."""
    try:
        yield
    except Exception:
        raise
    except BaseException as error:
        pass_on_ends(error)
        raise Panicked(f"{type(error).__name__}: {error}") from error
