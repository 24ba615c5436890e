"""Errors on the wire: one table from our classes to codes, and the interceptor that applies it to every method.

Every error carries a google.rpc.ErrorInfo with domain "sinkserve" (AIP-193), which says whether to try again. What is
not one of our errors is logged whole and answered as INTERNAL, which says nothing of it.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc
import structlog
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from common import errors
from common.errors import Reason, SinkServeError
from common.rpc.utf8_check import field_not_utf8

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


@dataclass(frozen=True)
class Malformed:
    """Stands for a request whose bytes are not a message, until the handler's guard refuses it."""

    field: str | None
    cause: str


def _tolerant(parse: Any) -> Callable[[bytes], Any]:  # noqa: ANN401 - FromString of any message
    """Parse without raising: an exception in a deserializer would reach the client as INTERNAL."""

    def deserialize(data: bytes) -> Any:  # noqa: ANN401 - whatever the method takes
        try:
            return parse(data)
        except DecodeError as error:
            return Malformed(field_not_utf8(parse.__self__.DESCRIPTOR, data), str(error))

    return deserialize


def _checked(request: Any) -> Any:  # noqa: ANN401 - whatever the method takes
    if isinstance(request, Malformed):
        cause = f"{request.field} is not UTF-8" if request.field else f"not a message of this method: {request.cause}"
        raise errors.InvalidArgument(Reason.MALFORMED_REQUEST, cause, field=request.field)
    return request


async def _checked_stream(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _checked(request)


Note = Callable[[str, str, str, str], None]
"""Is told of a failed call: its method, code, reason and cause."""
Admit = Callable[[str, grpc.aio.ServicerContext[Any, Any]], Awaitable[None]]
"""Is asked before a method is, and raises why a call is not answered."""


def _say_nothing(*_: str) -> None:
    """Nobody counts."""


@dataclass(frozen=True)
class _Method:
    """A method as the guards know it."""

    name: str
    admit: Admit
    note: Note

    async def abort(self, context: grpc.aio.ServicerContext[Any, Any], error: BaseException, request: object) -> None:
        """End a call with the status of what its handler raised."""
        if not isinstance(error, SinkServeError):
            log.error("call.failed", method=self.name, resource=getattr(request, "name", None), exc_info=error)
            error = errors.Internal(Reason.INTERNAL, "the server failed; its log has the details")
        self.note(self.name, CODES[type(error)].name, error.reason, error.message)
        await context.abort_with_status(rpc_status.to_status(to_status(error)))


class StatusInterceptor(grpc.aio.ServerInterceptor):
    """Has calls admitted, and turns what that and handlers raise into statuses.

    Requests that are not messages are INVALID_ARGUMENT.
    """

    def __init__(self, admit: Admit, note: Note = _say_nothing) -> None:
        self._admit = admit
        self._note = note
        self._guarded: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        handler = await continuation(handler_call_details)
        if handler is None:
            return handler
        method = str(handler_call_details.method)
        if method not in self._guarded:
            self._guarded[method] = _guard(handler, _Method(method, self._admit, self._note))
        return self._guarded[method]


def _guard(handler: grpc.RpcMethodHandler[Any, Any], method: _Method) -> grpc.RpcMethodHandler[Any, Any]:
    kinds = {False: "unary", True: "stream"}
    shape = f"{kinds[handler.request_streaming]}_{kinds[handler.response_streaming]}"
    wrap = _guard_generator if inspect.isasyncgenfunction(getattr(handler, shape)) else _guard_coroutine
    behavior = wrap(getattr(handler, shape), method, _checked_stream if handler.request_streaming else _checked)
    make = getattr(grpc, f"{shape}_rpc_method_handler")
    guarded: grpc.RpcMethodHandler[Any, Any] = make(
        behavior, _tolerant(handler.request_deserializer), handler.response_serializer
    )
    return guarded


def _passes(error: BaseException) -> bool:
    """Whether gRPC has to see the exception itself: a cancelled call, one aborted already, a peer that left, the end.

    A CancelledError of something that the handler waited for would leave the client without a status, for ever.
    """
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is None or task.cancelling() > 0
    return isinstance(error, (grpc.aio.AbortError, grpc.aio.BaseError, KeyboardInterrupt, SystemExit, GeneratorExit))


def _guard_coroutine(behavior: Any, method: _Method, check: Any) -> Any:  # noqa: ANN401 - any method's handler
    async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:  # noqa: ANN401
        try:
            await method.admit(method.name, context)
            return await behavior(check(request), context)
        except BaseException as error:
            if _passes(error):
                raise
            await method.abort(context, error, request)

    return call


def _guard_generator(behavior: Any, method: _Method, check: Any) -> Any:  # noqa: ANN401 - any method's handler
    async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:  # noqa: ANN401
        try:
            await method.admit(method.name, context)
            async for response in behavior(check(request), context):
                yield response
        except BaseException as error:
            if _passes(error):
                raise
            await method.abort(context, error, request)

    return call
