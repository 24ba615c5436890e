"""Connections to PostgreSQL on which every wait is bounded here, not only at the server.

A server whose network is gone says nothing, and its own limits never arrive. Where something between still takes what
is sent, neither TCP's keepalive nor its timeouts notice: so each answer has a time by which it must be here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL

from common.db.outage import Silence
from common.db.transactions import ALONE

_WRITER = 0x51_4B_53_56  # the lock's number: any, but the same for every process
_MOST_TO_CONNECT_S = 30.0
_LONGER_S = 1.0  # than the server, whose own words say more
_INTERVAL_S = 0.1
R = TypeVar("R")


class _Silence(psycopg.OperationalError, Silence):
    """As the driver's own, so that SQLAlchemy knows it."""


def make_postgres_engine(url: URL, patience_s: float) -> Engine:
    """SQLAlchemy's engine for a server that gets `patience_s` for each answer, and for each lock."""
    options = f"{url.query.get('options', '')} {_server_limits(patience_s)}".strip()
    parsed = url.set(drivername="postgresql+psycopg").update_query_dict({"options": options})
    engine = create_engine(parsed, pool_pre_ping=True, pool_timeout=patience_s)

    @event.listens_for(engine, "do_connect")
    def connect(_dialect: object, _record: object, args: list[Any], options: dict[str, Any]) -> psycopg.Connection[Any]:
        return _connect(patience_s, args, options)

    event.listen(engine, "begin", _begin)
    return engine


def _server_limits(patience_s: float) -> str:
    # A process that hangs inside a transaction must not block all others.
    limits = {"lock_timeout": patience_s, "idle_in_transaction_session_timeout": max(patience_s, 30.0)}
    return " ".join(f"-c {name}={round(seconds * 1000)}" for name, seconds in limits.items())


class _PatientConnection(psycopg.Connection[Any]):
    """A connection that closes itself and raises Silence where an answer takes too long."""

    patience_s = 0.0

    def wait(self, gen: PQGen[R], interval: float = _INTERVAL_S, *args: Any, **kwargs: Any) -> R:  # noqa: ANN401
        """As the base; every call to the server comes through here."""
        try:
            return super().wait(_until(gen, time.monotonic() + self.patience_s), interval, *args, **kwargs)
        except Silence:
            self.pgconn.finish()
            raise


def _until(gen: PQGen[R], deadline: float) -> Generator[Any, Any, R]:
    """`gen`, which is resumed every moment whether or not something came, until `deadline`."""
    try:
        state = next(gen)
        while True:
            state = gen.send((yield state))
            if time.monotonic() > deadline:
                raise _Silence("its answer took too long")
    except StopIteration as end:
        result: R = end.value
        return result


def _connect(patience_s: float, args: list[Any], options: dict[str, Any]) -> psycopg.Connection[Any]:
    """Connect in a thread of its own, since looking up a name cannot be interrupted."""
    attempt = _Attempt(args, options)
    attempt.start()
    connection = attempt.result(min(patience_s, _MOST_TO_CONNECT_S))
    connection.patience_s = patience_s + _LONGER_S
    return connection


class _Attempt(threading.Thread):
    """One attempt to connect; a connection that comes too late is closed."""

    def __init__(self, args: list[Any], options: dict[str, Any]) -> None:
        super().__init__(name="connects to PostgreSQL", daemon=True)
        self._args, self._options = args, options
        self._lock = threading.Lock()
        self._given_up = False
        self._connection: _PatientConnection | None = None
        self._error: Exception | None = None

    def run(self) -> None:
        try:
            connection = _PatientConnection.connect(*self._args, **self._options)
        except Exception as error:  # noqa: BLE001 - it is raised where it is waited for
            self._error = error
            return
        with self._lock:
            self._connection = connection
            if self._given_up:
                connection.close()

    def result(self, patience_s: float) -> _PatientConnection:
        """The connection; raises what connecting did, or Silence."""
        self.join(patience_s)
        with self._lock:
            self._given_up = True
            if self._error is not None:
                raise self._error
            if self._connection is None:
                raise _Silence("a connection took too long")
            return self._connection


def _begin(connection: Connection) -> None:
    """One writer at a time, as on SQLite: what a writer has read stays true until it commits."""
    if connection.get_execution_options().get(ALONE):
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_WRITER})")
