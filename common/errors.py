"""The closed set of errors, at the bottom of the house: everything may raise them, `grpc_status` maps them.

SinkServeError
├── InvalidArgument      the request is wrong, and would be wrong at any time
├── OutOfRange           it asks for what is past an end
├── NotFound             what it names does not exist
├── AlreadyExists        what it names exists, and differs
├── FailedPrecondition   it is right, but not in this state
├── Unauthenticated      nobody knows who calls
├── PermissionDenied     not at this address, or not for this caller
├── ResourceExhausted    no room now; `retry_after_s` says when to try
├── Aborted              another act took precedence
├── Unavailable          the server is stopping
├── Cancelled            somebody asked for the end
├── DeadlineExceeded     it took longer than it may
├── DataLoss             stored bytes are not what they were
└── Internal             a fault of ours; the message says nothing of it
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Retry(StrEnum):
    """What a client that gets an error does about it by itself; goes out as `metadata["retry"]` of every ErrorInfo."""

    SAME = "same"
    """Send the same again after a wait: a call, a turn, or the `open` of a stream with the last sequence seen."""
    REOPEN = "reopen"
    """Open the session on a new stream, without `after_sequence`, and send what has not ended again."""
    NEVER = "never"
    """The same fails again, until somebody changes something."""


class Reason(StrEnum):
    """Reason of an ErrorInfo: the names of `sinkserve.engine.v1.ErrorReason` without their prefix."""

    MALFORMED_REQUEST = "MALFORMED_REQUEST"
    INVALID_FIELD = "INVALID_FIELD"
    INVALID_SPEC = "INVALID_SPEC"
    SOURCE_NOT_FOUND = "SOURCE_NOT_FOUND"
    SOURCE_NOT_ALLOWED = "SOURCE_NOT_ALLOWED"
    CHECKPOINT_INVALID = "CHECKPOINT_INVALID"
    ARCHITECTURE_UNSUPPORTED = "ARCHITECTURE_UNSUPPORTED"
    CONFIG_UNSUPPORTED = "CONFIG_UNSUPPORTED"
    BUILD_NOT_FOUND = "BUILD_NOT_FOUND"
    REQUEST_ID_REUSED = "REQUEST_ID_REUSED"
    BUILD_ENDED = "BUILD_ENDED"
    BUILD_CANCELLED = "BUILD_CANCELLED"
    BUILD_CRASHED = "BUILD_CRASHED"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    OUT_OF_DISK = "OUT_OF_DISK"
    VERIFICATION_FAILED = "VERIFICATION_FAILED"
    ENGINE_NOT_FOUND = "ENGINE_NOT_FOUND"
    ENGINE_NOT_LOADED = "ENGINE_NOT_LOADED"
    ENGINE_IN_USE = "ENGINE_IN_USE"
    ENGINE_INCOMPATIBLE = "ENGINE_INCOMPATIBLE"
    ENGINE_UNVERIFIED = "ENGINE_UNVERIFIED"
    ENGINE_UNTRUSTED = "ENGINE_UNTRUSTED"
    STORE_CORRUPT = "STORE_CORRUPT"
    SESSION_NOT_FOUND = "SESSION_NOT_FOUND"
    SESSION_EXISTS = "SESSION_EXISTS"
    SESSION_TAKEN_OVER = "SESSION_TAKEN_OVER"
    SESSION_DELETED = "SESSION_DELETED"
    TURN_ID_REUSED = "TURN_ID_REUSED"
    TURN_EXCEEDS_WINDOW = "TURN_EXCEEDS_WINDOW"
    SYSTEM_PROMPT_EXCEEDS_SINKS = "SYSTEM_PROMPT_EXCEEDS_SINKS"
    TURN_QUEUE_FULL = "TURN_QUEUE_FULL"
    STREAM_NOT_OPEN = "STREAM_NOT_OPEN"
    STREAM_ALREADY_OPEN = "STREAM_ALREADY_OPEN"
    EVENTS_EXPIRED = "EVENTS_EXPIRED"
    CONTEXT_FULL = "CONTEXT_FULL"
    TOKEN_OUT_OF_VOCABULARY = "TOKEN_OUT_OF_VOCABULARY"  # noqa: S105 - a token of text, not a secret
    TEXT_UNSUPPORTED = "TEXT_UNSUPPORTED"
    NON_FINITE_LOGITS = "NON_FINITE_LOGITS"
    CAPACITY_EXHAUSTED = "CAPACITY_EXHAUSTED"
    READER_TOO_SLOW = "READER_TOO_SLOW"
    DRAINING = "DRAINING"
    REPLAY_TOO_LONG = "REPLAY_TOO_LONG"
    INTERNAL = "INTERNAL"
    INVALID_ALIAS = "INVALID_ALIAS"
    TOOLCHAIN_FAILED = "TOOLCHAIN_FAILED"
    BUILD_TIMED_OUT = "BUILD_TIMED_OUT"
    WORKER_LOST = "WORKER_LOST"
    SCHEMA_MISMATCH = "SCHEMA_MISMATCH"
    DATABASE_UNAVAILABLE = "DATABASE_UNAVAILABLE"
    STORE_UNAVAILABLE = "STORE_UNAVAILABLE"
    SESSION_BUSY = "SESSION_BUSY"
    TURN_NOT_FOUND = "TURN_NOT_FOUND"
    TURN_NOT_FINISHED = "TURN_NOT_FINISHED"
    SESSION_NOT_KEPT = "SESSION_NOT_KEPT"
    WRONG_LISTENER = "WRONG_LISTENER"
    CREDENTIALS_MISSING = "CREDENTIALS_MISSING"
    CREDENTIALS_INVALID = "CREDENTIALS_INVALID"
    CREDENTIALS_EXPIRED = "CREDENTIALS_EXPIRED"
    IDENTITY_PROVIDER_UNAVAILABLE = "IDENTITY_PROVIDER_UNAVAILABLE"
    ROLE_MISSING = "ROLE_MISSING"
    ENGINE_NAME_TAKEN = "ENGINE_NAME_TAKEN"
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED"
    PINS_FULL = "PINS_FULL"
    FORM_TOO_SLOW = "FORM_TOO_SLOW"


@dataclass(frozen=True)
class FieldViolation:
    """One field of a request that is wrong: its dotted path as on the wire, and what would be right."""

    field: str
    description: str


class SinkServeError(Exception):
    """An error that a person can act on. Everything variable in `message` is in `metadata` too."""

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        field: str | None = None,
        violations: tuple[FieldViolation, ...] = (),
        retry_after_s: float | None = None,
        **metadata: object,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.violations = violations or ((FieldViolation(field, message),) if field else ())
        self.retry_after_s = retry_after_s
        self.retry = RETRY.get((type(self), reason), Retry.NEVER)
        self.metadata = {key: str(value) for key, value in metadata.items()}


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


class Unavailable(SinkServeError):
    pass


class Cancelled(SinkServeError):
    pass


class DeadlineExceeded(SinkServeError):
    pass


class DataLoss(SinkServeError):
    pass


class Internal(SinkServeError):
    pass


RETRY: Mapping[tuple[type[SinkServeError], Reason], Retry] = {
    (Unavailable, Reason.SESSION_BUSY): Retry.SAME,
    (Unavailable, Reason.DATABASE_UNAVAILABLE): Retry.SAME,
    (Unavailable, Reason.STORE_UNAVAILABLE): Retry.SAME,
    (Unavailable, Reason.SOURCE_NOT_FOUND): Retry.SAME,
    (Unavailable, Reason.IDENTITY_PROVIDER_UNAVAILABLE): Retry.SAME,
    (Unavailable, Reason.INTERNAL): Retry.SAME,
    (ResourceExhausted, Reason.CAPACITY_EXHAUSTED): Retry.SAME,
    (ResourceExhausted, Reason.TURN_QUEUE_FULL): Retry.SAME,
    (ResourceExhausted, Reason.QUOTA_EXCEEDED): Retry.SAME,
    (Unavailable, Reason.DRAINING): Retry.REOPEN,
    (Unavailable, Reason.ENGINE_NOT_LOADED): Retry.REOPEN,
    (OutOfRange, Reason.EVENTS_EXPIRED): Retry.REOPEN,
    (ResourceExhausted, Reason.READER_TOO_SLOW): Retry.REOPEN,
}
"""Errors that a client may get over by itself; every other one is NEVER."""
