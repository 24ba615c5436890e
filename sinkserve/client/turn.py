"""A turn for its caller: iterate its deltas, wait for its end, cancel it. Knows nothing about streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from sinkserve.client.errors import SinkServeError
from sinkserve.client.reply import Delta, Finished, FinishReason, Reply, ToolCall, read_finished
from sinkserve.runtime.v1 import conversation_service_pb2 as pb


class Turn:
    """One input and the reply to it, from `Conversation.say` or `send`.

        turn = await conversation.say("hello")
        async for delta in turn:
            print(delta.text, end="")
        print(turn.finished.reason)

    Iterating yields the deltas from the first one on, at any time and as often as you like. It raises what the
    server said when the turn was rejected or ended in an error, and what ended the conversation when that came
    first. A turn goes on whether anybody iterates or not.
    """

    def __init__(self, request: pb.Turn, changed: Callable[[], None]) -> None:
        self.request = request
        self.started: pb.TurnStarted | None = None
        """The options in use, with seed and defaults filled in; None while the turn waits."""
        self.error: SinkServeError | None = None
        """The error that ended the turn; None otherwise."""
        self.cancel_request: pb.CancelTurn | None = None
        self._finished: Finished | None = None
        self._reply = Reply()
        self._changed = changed
        self._news = asyncio.Event()

    @property
    def id(self) -> str:
        """The turn's id, unique in its session."""
        return self.request.turn_id

    @property
    def text(self) -> str:
        """The reply so far."""
        return self._reply.text

    @property
    def reasoning(self) -> str:
        """What the model thought so far, before it replies."""
        return self._reply.reasoning

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """What the reply calls, once it has ended: empty before. `Conversation.answer` takes the results."""
        return () if self._finished is None else self._finished.tool_calls

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Tokens generated so far."""
        return tuple(self._reply.token_ids)

    @property
    def attempt(self) -> int:
        """1, or more after the turn started again because its server crashed."""
        return self._reply.attempt

    @property
    def finished(self) -> Finished:
        """How the turn ended; raises RuntimeError before the end, and why there is none, such as a rejection."""
        if self._finished is not None:
            return self._finished
        raise self.error or RuntimeError("the turn has not ended: iterate it, or await wait()")

    @property
    def done(self) -> bool:
        """Whether nothing more will come."""
        return self._finished is not None or self.error is not None

    async def __aiter__(self) -> AsyncIterator[Delta]:
        attempt, index = 0, 0
        while True:
            if attempt != self._reply.attempt:
                attempt, index = self._reply.attempt, 0
            if index < len(self._reply.deltas):
                index += 1
                yield self._reply.deltas[index - 1]
            elif self.done:
                break
            else:
                await self._next_news()
        if self.error is not None:
            raise self.error

    async def wait_started(self) -> None:
        """Wait until it runs, or has ended. Raises what the server said where it was rejected."""
        while self.started is None and not self.done:
            await self._next_news()
        if self.error is not None and self._finished is None:
            raise self.error

    async def wait(self) -> Finished:
        """Wait for the end; `text` is whole then. Raises as iterating does."""
        while not self.done:
            await self._next_news()
        if self.error is not None:
            raise self.error
        return self.finished

    async def cancel(self, *, discard: bool = False) -> None:
        """Ask the server to end the turn; returns at once, the end comes as `finished` with CANCELLED.

        What was fed and generated stays in the conversation; with `discard` it is removed. A turn
        that has ended stays as it is.
        """
        if not self.done:
            self.cancel_request = pb.CancelTurn(turn_id=self.id, discard=discard)
            self._changed()

    async def _next_news(self) -> None:
        self._news.clear()
        await self._news.wait()

    def receive_started(self, started: pb.TurnStarted) -> None:
        """For the stream: a pass over the turn's events begins."""
        self.started = started
        self._reply.start(started.attempt)
        self._news.set()

    def receive_delta(self, delta: pb.Delta) -> None:
        """For the stream: a piece came."""
        self._reply.append(delta)
        self._news.set()

    def receive_finished(self, finished: pb.TurnFinished) -> None:
        """For the stream: the turn ended."""
        self._finished = read_finished(finished)
        if self._finished.reason is FinishReason.ERROR:
            self.error = self._finished.error
        self._news.set()

    def fail(self, error: SinkServeError) -> None:
        """For the stream: there will be no end."""
        if not self.done:
            self.error = error
            self._news.set()
