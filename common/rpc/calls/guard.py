"""What stands around every method: who calls is known, the call is noted, and what is raised becomes a status.

What is not one of our errors is logged whole and answered as INTERNAL, which says nothing of it.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import grpc
import structlog
from google.protobuf.message import DecodeError, Message
from grpc_status import rpc_status

from common import errors
from common.errors import Reason, SinkServeError
from common.rpc.calls.call import REQUEST_ID, Call, Context, count_received, count_sent
from common.rpc.calls.call_log import CallLog
from common.rpc.grpc_status import CODES, to_status
from common.rpc.utf8_check import field_not_utf8

log = structlog.get_logger()


@dataclass(frozen=True)
class Malformed:
    """Stands for a request whose bytes are not a message, until the handler's guard refuses it."""

    field: str | None
    cause: str


def _tolerant(parse: Any) -> Callable[[bytes], Any]:  # noqa: ANN401 - FromString of any message
    """Parse without raising: an exception in a deserializer would reach the client as INTERNAL."""

    def deserialize(data: bytes) -> Any:  # noqa: ANN401 - whatever the method takes
        count_received(len(data))
        try:
            return parse(data)
        except DecodeError as error:
            return Malformed(field_not_utf8(parse.__self__.DESCRIPTOR, data), str(error))

    return deserialize


def _counting(serialize: Any) -> Callable[[Any], bytes]:  # noqa: ANN401 - SerializeToString of any message
    def counted(message: Any) -> bytes:  # noqa: ANN401 - whatever the method answers
        data: bytes = serialize(message)
        count_sent(len(data))
        return data

    return counted


def _checked(request: Any) -> Any:  # noqa: ANN401 - whatever the method takes
    if isinstance(request, Malformed):
        cause = f"{request.field} is not UTF-8" if request.field else f"not a message of this method: {request.cause}"
        raise errors.InvalidArgument(Reason.MALFORMED_REQUEST, cause, field=request.field)
    return request


async def _checked_stream(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _checked(request)


Admit = Callable[[str, grpc.aio.ServicerContext[Any, Any]], Awaitable[None]]
"""Is asked before a method is, and raises why a call is not answered."""


@dataclass(frozen=True)
class _Method:
    """A method as the guards know it."""

    path: str
    streams: bool
    admit: Admit
    calls: CallLog | None

    @asynccontextmanager
    async def answering(self, request: Any, context: Context) -> AsyncIterator[Call]:  # noqa: ANN401
        """Have a call admitted and noted; what is raised meanwhile becomes its status."""
        call = self._arrive(request, context)
        try:
            await self.admit(self.path, context)
            yield call
        except BaseException as error:
            if not _passes(error):
                await self._fail(call, context, error)
            self._ended(call, _code_of(error, context))
            raise
        self._ended(call, "OK")

    def _arrive(self, request: Any, context: Context) -> Call:  # noqa: ANN401 - whatever the method takes
        """Know the call in this task, and in all that is logged in it."""
        call = Call.of(self.path, context)
        call.enter()
        structlog.contextvars.bind_contextvars(request=call.request_id)
        context.set_trailing_metadata(((REQUEST_ID, call.request_id),))
        call.resource = _resource(request)
        if isinstance(request, Message):
            call.received_bytes = request.ByteSize()
        return call

    def _ended(self, call: Call, code: str, reason: str = "", cause: str = "") -> None:
        if self.calls is not None:
            self.calls.ended(call, code, reason, cause, streams=self.streams)

    async def _fail(self, call: Call, context: Context, error: BaseException) -> NoReturn:
        """End a call with the status of what its handler raised."""
        if not isinstance(error, SinkServeError):
            log.error("call.failed", method=call.method, resource=call.resource or None, exc_info=error)
            error = errors.Internal(Reason.INTERNAL, "the server failed; its log has the details")
        error.metadata["request"] = call.request_id
        if self.calls is not None:
            self.calls.refused(error)
        self._ended(call, CODES[type(error)].name, error.reason, error.message)
        status = rpc_status.to_status(to_status(error))
        trailing = (*status.trailing_metadata, (REQUEST_ID, call.request_id))
        await context.abort(status.code, status.details, trailing)


def _resource(request: object) -> str:
    """The name of what a request is about, where it says one."""
    found = next((value for key in _NAMES if isinstance(value := getattr(request, key, None), str) and value), "")
    return found[:_LONGEST_NAME]


_NAMES = ("name", "reference", "session", "engine", "alias")
_LONGEST_NAME = 200


class StatusInterceptor(grpc.aio.ServerInterceptor):
    """Has calls admitted, and turns what that and handlers raise into statuses.

    Requests that are not messages are INVALID_ARGUMENT.
    """

    def __init__(self, admit: Admit, calls: CallLog | None = None) -> None:
        self._admit = admit
        self._calls = calls
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
            streams = bool(handler.request_streaming or handler.response_streaming)
            self._guarded[method] = _guard(handler, _Method(method, streams, self._admit, self._calls))
        return self._guarded[method]


def _guard(handler: grpc.RpcMethodHandler[Any, Any], method: _Method) -> grpc.RpcMethodHandler[Any, Any]:
    kinds = {False: "unary", True: "stream"}
    shape = f"{kinds[handler.request_streaming]}_{kinds[handler.response_streaming]}"
    wrap = _guard_generator if inspect.isasyncgenfunction(getattr(handler, shape)) else _guard_coroutine
    behavior = wrap(getattr(handler, shape), method, _checked_stream if handler.request_streaming else _checked)
    make = getattr(grpc, f"{shape}_rpc_method_handler")
    guarded: grpc.RpcMethodHandler[Any, Any] = make(
        behavior, _tolerant(handler.request_deserializer), _counting(handler.response_serializer)
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


def _code_of(error: BaseException, context: Context) -> str:
    """How a call ends that gRPC itself ends: as a handler said when it aborted, or because its peer has left."""
    said: Any = context.code() if isinstance(error, grpc.aio.AbortError) else grpc.StatusCode.CANCELLED
    return next((code.name for code in grpc.StatusCode if said in (code, code.value[0])), "UNKNOWN")


def _guard_coroutine(behavior: Any, method: _Method, check: Any) -> Any:  # noqa: ANN401 - any method's handler
    async def answer(request: Any, context: Context) -> Any:  # noqa: ANN401
        async with method.answering(request, context) as call:
            response = await behavior(check(request), context)
            if isinstance(response, Message):
                call.sent_bytes = response.ByteSize()
            return response

    return answer


def _guard_generator(behavior: Any, method: _Method, check: Any) -> Any:  # noqa: ANN401 - any method's handler
    async def answer(request: Any, context: Context) -> AsyncIterator[Any]:  # noqa: ANN401
        async with method.answering(request, context):
            async for response in behavior(check(request), context):
                yield response

    return answer
