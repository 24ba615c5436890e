"""Remembers that the database was silent, so that those who come next do not wait as long to hear the same."""

from __future__ import annotations

import time

from sqlalchemy.exc import DBAPIError

from common.errors import SinkServeError

_REST_S = 1.0


class Silence(Exception):
    """The server has not answered in time; the connection is closed."""


class Outage:
    """After silence, all are refused for a moment; then it is tried again."""

    def __init__(self) -> None:
        self._until = 0.0
        self._error: SinkServeError | None = None

    def check(self) -> None:
        """Raise what the last one was told, if that was a moment ago."""
        if self._error is not None and time.monotonic() < self._until:
            raise self._error

    def note(self, error: Exception, told: SinkServeError) -> None:
        """Somebody waited in vain for the database, with `error`, and was told so."""
        if isinstance(error, DBAPIError) and isinstance(error.orig, Silence):
            self._error, self._until = told, time.monotonic() + _REST_S
