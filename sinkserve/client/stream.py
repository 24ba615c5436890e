"""Keeps a conversation's stream: opens it, reads and writes it, and reopens it when it is lost.

The state is in the ledger; this part has the I/O and the waiting. After a loss it reopens the stream only when there is
something to send, so that an idle client does not take the session over from another one that has resumed it.
"""

from __future__ import annotations

import asyncio
import logging
import random
from dataclasses import dataclass

import grpc

from sinkserve.client.errors import Cancelled, Details, SinkServeError, Unavailable, from_call
from sinkserve.client.ledger import Ledger, Link
from sinkserve.client.peer import Peer
from sinkserve.client.retry import Retry
from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from sinkserve.runtime.v1 import conversation_service_pb2_grpc as pb_grpc

SESSION_KEY = "sinkserve-session-id"  # the routing key for balancers

log = logging.getLogger(__name__)

Call = grpc.aio.StreamStreamCall[pb.ConverseRequest, pb.ConverseResponse]


@dataclass(frozen=True)
class Route:
    """Where a conversation lives."""

    runtime: Peer
    session_id: str

    @property
    def stub(self) -> pb_grpc.ConversationServiceAsyncStub:
        """Of its service."""
        return pb_grpc.ConversationServiceStub(self.runtime.channel)


class _Outage:
    """How long there has been no working stream. A stream that made progress, or lasted long, ends the outage."""

    def __init__(self, retry: Retry) -> None:
        self._retry = retry
        self._attempts = 0
        self._since: float | None = None

    @property
    def begins(self) -> bool:
        """Whether no try was made yet."""
        return self._attempts == 0

    def over(self) -> None:
        self._attempts, self._since = 0, None

    def may_go_on(self, *, reached: bool) -> bool:
        """Whether another try is due; `reached` tells a resumption from the first open."""
        if not reached:
            return self._attempts + 1 < self._retry.attempts_at_first
        now = asyncio.get_running_loop().time()
        self._since = now if self._since is None else self._since
        return now - self._since < self._retry.give_up_after_s

    async def wait(self, at_least_s: float) -> None:
        wait_s = self._retry.wait_s(self._attempts, random.random())  # noqa: S311 - spreads clients, hides nothing
        self._attempts += 1
        await asyncio.sleep(max(at_least_s, wait_s))


class Stream:
    """Life: `start`, then `wake` whenever the ledger changed; ends by itself when the ledger is closed or fails."""

    def __init__(self, route: Route, ledger: Ledger, retry: Retry) -> None:
        self._route = route
        self._ledger = ledger
        self._retry = retry
        self._outage = _Outage(retry)
        self._changed = asyncio.Event()
        self._settled = asyncio.Event()  # the first open was answered, or failed
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Open; raises what the server said, or Unreachable, and RuntimeError the second time."""
        if self._task is not None:
            raise RuntimeError("the conversation was opened already")
        self._route.runtime.channel  # noqa: B018 - raises here where this is not the client's event loop
        self._task = asyncio.create_task(self._run(), name=f"conversation {self._route.session_id}")
        try:
            await self._settled.wait()
        except BaseException:
            await self.drop()
            raise
        if self._ledger.error is not None:
            raise self._ledger.error

    def wake(self) -> None:
        """The ledger has changed."""
        self._changed.set()

    async def ended(self) -> None:
        """Wait until the stream has ended, with or without an error."""
        if self._task is not None:
            await asyncio.wait([self._task])

    async def drop(self) -> None:
        """Drop the stream now."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        try:
            await self._until_needed()
            while not self._ledger.settled:
                link = Link()
                if await self._is_over(link, await self._converse(link)):
                    return
                await self._until_needed()
        except asyncio.CancelledError:
            left = Details(retry="never")
            self._ledger.fail(Cancelled(grpc.StatusCode.CANCELLED, "the conversation was left", left))
            raise
        except BaseException as error:
            what = f"the client failed: {error!r}"
            self._ledger.fail(SinkServeError(grpc.StatusCode.UNKNOWN, what, Details(retry="never")))
            raise
        finally:
            self._settled.set()

    async def _until_needed(self) -> None:
        while not self._ledger.busy:
            self._changed.clear()
            await self._changed.wait()

    async def _converse(self, link: Link) -> SinkServeError | None:
        """One stream, from its open to its end; returns why it ended, None for a good end."""
        call = self._route.stub.Converse(metadata=((SESSION_KEY, self._route.session_id),))
        writer = asyncio.create_task(self._write(call, link))
        opened_at = asyncio.get_running_loop().time()
        try:
            await self._read(call, link)
        except grpc.aio.AioRpcError as error:
            return from_call(error, self._route.runtime.address)
        finally:
            await _end(writer)
            call.cancel()
            if link.progress or asyncio.get_running_loop().time() - opened_at > self._retry.give_up_after_s:
                self._outage.over()
        return None

    async def _read(self, call: Call, link: Link) -> None:
        async for response in call:
            self._ledger.receive(response, link)
            self._changed.set()
            if link.opened:
                self._settled.set()

    async def _write(self, call: Call, link: Link) -> None:
        while True:
            while (request := self._ledger.next_request(link)) is not None:
                await call.write(request)
            if link.close_sent or self._ledger.may_leave(link):
                await call.done_writing()
                return
            self._changed.clear()
            await self._changed.wait()

    async def _is_over(self, link: Link, error: SinkServeError | None) -> bool:
        """Whether nothing is left to do after a stream ended with `error`; waits before it says no."""
        ledger = self._ledger
        closed = error is None and link.close_sent
        error = error or Unavailable(grpc.StatusCode.UNAVAILABLE, "the server ended the stream")
        if ledger.settled or (closed and not ledger.unfinished):
            return True
        if ledger.deleting and error.reason in {"SESSION_NOT_FOUND", "SESSION_DELETED"}:
            ledger.abandon(error)
            return True
        if error.retry == "never" or not self._outage.may_go_on(reached=ledger.opened is not None):
            ledger.fail(error)
            return True
        if error.retry == "reopen":
            ledger.forget_sequence()
        if self._outage.begins:
            log.info("the stream to %s was lost, coming back: %s", self._route.runtime.address, error)
        await self._outage.wait(error.retry_after_s or 0.0)
        return False


async def _end(writer: asyncio.Task[None]) -> None:
    """Stop writing. The error of a write on an ended call is ignored: the call's own status says more."""
    writer.cancel()
    await asyncio.wait([writer])
    if not writer.cancelled():
        writer.exception()
