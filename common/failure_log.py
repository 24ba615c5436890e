"""What the log hears of work that is repeated and fails: the same cause once, until it succeeds again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from common.errors import SinkServeError
from common.panics import pass_on_ends

log = structlog.get_logger()


class FailureLog:
    """The failures of one kind of work, logged as `event` with `fields`. `failing`: the last attempt failed."""

    def __init__(self, event: str, **fields: str) -> None:
        self.failing = False
        self._event = event
        self._fields = fields
        self._told = ""

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Do the work here. Nothing that fails leaves it, but what is to end the task or the program."""
        told, self._told, self.failing = self._told, "", True
        try:
            yield
            self.failing = False
        except SinkServeError as error:  # such as a database that is away
            if error.message != told:
                log.warning(self._event, **self._fields, cause=error.message)
            self._told = error.message
        except BaseException as error:
            pass_on_ends(error)
            log.exception(self._event, **self._fields)
