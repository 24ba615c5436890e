"""The call that is answered, as far as the house has to know of it: in its task and those that it starts."""

from __future__ import annotations

import secrets
import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import grpc

from common.auth.principal import Principal
from common.controls import is_name
from common.tracing.span import PARENT, TRACE_CONTEXT, caller_span, request_id

Context = grpc.aio.ServicerContext[Any, Any]
REQUEST_ID = "x-request-id"
"""Metadata key of a request's id: a proxy's or a client's, else drawn here."""
_LONGEST_ID = 128
_NOBODY = Principal("", authenticated=False)


@dataclass
class Call:
    """One call: SERVICE.METHOD, who calls and from where, and what it has moved so far."""

    method: str
    request_id: str = field(default_factory=lambda: secrets.token_hex(8))
    parent: str = ""
    """The caller's span, as W3C trace context; empty: it has none."""
    peer: str = ""
    resource: str = ""
    """What it is about, by the name that the request gives."""
    principal: Principal = _NOBODY
    """Who calls, once that is known."""
    began: float = field(default_factory=time.monotonic)
    received_bytes: int = 0
    sent_bytes: int = 0

    @classmethod
    def of(cls, path: str, context: Context) -> Call:
        """The call of /PACKAGE.SERVICE/METHOD that has just come."""
        call = cls(short_name(path), peer=str(context.peer()))
        for key, value in context.invocation_metadata() or ():
            if key == REQUEST_ID and isinstance(value, str) and 0 < len(value) <= _LONGEST_ID and is_name(value):
                call.request_id = value
            elif key == PARENT and isinstance(value, str) and TRACE_CONTEXT.fullmatch(value):
                call.parent = value
        return call

    def enter(self) -> None:
        """Be the current call of this task."""
        _current.set(self)
        caller_span.set(self.parent)
        request_id.set(self.request_id)


_current: ContextVar[Call] = ContextVar("call")


def current_call() -> Call:
    """The call that is answered here; raises LookupError outside of any."""
    return _current.get()


def count_received(size_bytes: int) -> None:
    """A message of the current call came."""
    if (call := _current.get(None)) is not None:
        call.received_bytes += size_bytes


def count_sent(size_bytes: int) -> None:
    """A message of the current call goes out."""
    if (call := _current.get(None)) is not None:
        call.sent_bytes += size_bytes


def short_name(path: str) -> str:
    """SERVICE.METHOD of /PACKAGE.SERVICE/METHOD."""
    return path.rpartition(".")[2].replace("/", ".")
