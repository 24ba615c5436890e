"""What the SDK raises: one class a gRPC code, each with all that the server said.

SinkServeError
├── InvalidArgument      the request is wrong; `violations` names the fields
├── OutOfRange           it asks for what is past an end
├── NotFound             what it names does not exist
├── AlreadyExists        what it names exists, and differs
├── FailedPrecondition   it is right, but not in this state
├── Unauthenticated      the server does not know who calls: no credentials, or wrong ones
├── PermissionDenied     not at this address, such as administration at the public one, or not for this caller
├── ResourceExhausted    no room now; `retry_after_s` says when to try
├── Aborted              another act took precedence, such as SESSION_TAKEN_OVER
├── Cancelled            somebody asked for the end
├── DeadlineExceeded     it took longer than it may
├── DataLoss             stored bytes are not what they were
├── Internal             a fault of the server
└── Unavailable          the server is stopping, or the connection was lost
    └── Unreachable      nobody answered at `address`

Other codes arrive as SinkServeError itself. Knows statuses, nothing of conversations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from common.rpc.proxy import proxy_of

DOMAIN = "sinkserve"
RetryWord = Literal["same", "reopen", "never"]
_LOST = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.CANCELLED})
_DETAILS = "grpc-status-details-bin"
_CODES: Mapping[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


@dataclass(frozen=True)
class FieldViolation:
    """One field of a request that is wrong: its dotted path as on the wire, and what would be right."""

    field: str
    description: str


@dataclass(frozen=True)
class Details:
    """What an error carries besides code and message; all empty when the server is not ours."""

    reason: str = ""
    retry: RetryWord | None = None
    violations: tuple[FieldViolation, ...] = ()
    retry_after_s: float | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


class SinkServeError(Exception):
    """A request that failed.

    `reason` is a name of `sinkserve.engine.v1.ErrorReason` without its prefix, or empty. `retry` is what to do about
    it, by the server's word: "same", send the same again after a wait; "reopen", open the session on a new stream and
    send again what has not ended; "never". Where no server of ours said anything, a lost connection is "same".
    """

    def __init__(self, code: grpc.StatusCode, message: str, details: Details | None = None) -> None:
        super().__init__(message)
        details = details or Details()
        self.code = code
        self.message = message
        self.reason = details.reason
        self.retry = details.retry or ("same" if code in _LOST and not details.reason else "never")
        self.violations = details.violations
        self.retry_after_s = details.retry_after_s
        self.metadata = details.metadata

    def __str__(self) -> str:
        name = f"{self.code.name} ({self.reason})" if self.reason else self.code.name
        return f"{name}: {self.message}"


class InvalidArgument(SinkServeError):
    pass


class OutOfRange(SinkServeError):
    pass


class NotFound(SinkServeError):
    pass


class AlreadyExists(SinkServeError):
    pass


class FailedPrecondition(SinkServeError):
    pass


class Unauthenticated(SinkServeError):
    pass


class PermissionDenied(SinkServeError):
    pass


class ResourceExhausted(SinkServeError):
    pass


class Aborted(SinkServeError):
    pass


class Cancelled(SinkServeError):
    pass


class DeadlineExceeded(SinkServeError):
    pass


class DataLoss(SinkServeError):
    pass


class Internal(SinkServeError):
    pass


class Unavailable(SinkServeError):
    pass


class Unreachable(Unavailable):
    """Nobody answered. `address` is where we asked; `proxy` says through which proxy, as NAME=URL, or is empty.

    `tls` says what is wrong where somebody is there, and the two sides do not agree on how to speak.
    """

    def __init__(self, address: str, message: str) -> None:
        self.address = address
        self.proxy = proxy_of(address)
        self.tls = _disagreement(message)
        message = f"{self.tls} ({message})" if self.tls else message
        through = f" (through the proxy {self.proxy}; no_proxy={address.rpartition(':')[0]} goes without)"
        super().__init__(grpc.StatusCode.UNAVAILABLE, message + (through if self.proxy else ""))


def _disagreement(message: str) -> str:
    """What gRPC's words for a connection that was not made have to do with TLS; empty: nothing."""
    if "WRONG_VERSION_NUMBER" in message:
        return "this client speaks TLS, and the server does not"
    if "handshake failed" in message:
        return "the server's certificate is not one that this client trusts for that address"
    if message.startswith("failed to connect") and message.endswith("Socket closed"):
        return "the server hung up at once: it speaks TLS and this client does not, or it wants a client's certificate"
    return ""


_RETRY_WORDS: Mapping[str, RetryWord] = {word: word for word in get_args(RetryWord)}
_CLASSES: Mapping[grpc.StatusCode, type[SinkServeError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument,
    grpc.StatusCode.OUT_OF_RANGE: OutOfRange,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPrecondition,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhausted,
    grpc.StatusCode.ABORTED: Aborted,
    grpc.StatusCode.CANCELLED: Cancelled,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.DATA_LOSS: DataLoss,
    grpc.StatusCode.INTERNAL: Internal,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
}


def from_status(status: status_pb2.Status) -> SinkServeError:
    """The error of a failed build, a failed turn or a rejected turn."""
    code = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
    return _make(code, status.message, _read_details(status))


def from_call(error: grpc.aio.AioRpcError, address: str = "") -> SinkServeError:
    """The error of a failed call to `address`."""
    code, message = error.code(), error.details() or ""
    status = _status_of(error)
    if status is not None:
        return _make(code, status.message or message, _read_details(status))
    if code is grpc.StatusCode.UNAVAILABLE and address:
        return Unreachable(address, message)
    return _make(code, message, Details())


def _make(code: grpc.StatusCode, message: str, details: Details) -> SinkServeError:
    return _CLASSES.get(code, SinkServeError)(code, message, details)


def _status_of(error: grpc.aio.AioRpcError) -> status_pb2.Status | None:
    trailers: Any = error.trailing_metadata() or ()
    for key, value in trailers:
        if key == _DETAILS:
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:  # a proxy cut the trailers
                return None
    return None


def _read_details(status: status_pb2.Status) -> Details:
    info, wrong, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    retry_after_s = None
    for detail in status.details:
        detail.Unpack(info)
        detail.Unpack(wrong)
        if detail.Unpack(retry):
            retry_after_s = retry.retry_delay.ToTimedelta().total_seconds()
    ours = info.domain == DOMAIN
    return Details(
        reason=info.reason if ours else "",
        retry=_RETRY_WORDS.get(info.metadata.get("retry", "")) if ours else None,
        violations=tuple(FieldViolation(item.field, item.description) for item in wrong.field_violations),
        retry_after_s=retry_after_s,
        metadata=dict(info.metadata),
    )
