"""Errors on the wire: one table from our classes to codes.

Every error carries a google.rpc.ErrorInfo with domain "sinkserve" (AIP-193), which says whether to try again.
"""

from __future__ import annotations

import grpc
import structlog
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from common import errors
from common.errors import SinkServeError

DOMAIN = "sinkserve"
RETRY_KEY = "retry"  # of an ErrorInfo's metadata
MOST_VIOLATIONS = 20  # details travel in trailers, which proxies cut off at 8 KiB
MOST_MESSAGE = 2000

CODES: dict[type[SinkServeError], grpc.StatusCode] = {
    errors.InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
    errors.OutOfRange: grpc.StatusCode.OUT_OF_RANGE,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.FailedPrecondition: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    errors.ResourceExhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Aborted: grpc.StatusCode.ABORTED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.Cancelled: grpc.StatusCode.CANCELLED,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.DataLoss: grpc.StatusCode.DATA_LOSS,
    errors.Internal: grpc.StatusCode.INTERNAL,
}

log = structlog.get_logger()


def to_status(error: SinkServeError) -> status_pb2.Status:
    """The google.rpc.Status of an error, for a failed build, a failed turn or a failed call."""
    status = status_pb2.Status(code=CODES[type(error)].value[0], message=error.message[:MOST_MESSAGE])
    for detail in _details(error):
        status.details.add().Pack(detail)
    return status


def _details(error: SinkServeError) -> list[Message]:
    metadata = {key: value[:256] for key, value in error.metadata.items()} | {RETRY_KEY: error.retry.value}
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata)]
    if error.violations:
        wrong = [
            error_details_pb2.BadRequest.FieldViolation(field=item.field, description=item.description[:512])
            for item in error.violations[:MOST_VIOLATIONS]
        ]
        details.append(error_details_pb2.BadRequest(field_violations=wrong))
    if error.retry_after_s is not None:
        delay = Duration()
        delay.FromMilliseconds(round(error.retry_after_s * 1000))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    return details
