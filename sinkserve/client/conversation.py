"""A conversation for its caller: say, send, close. Reconnecting and resuming are in `stream` and `ledger`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Literal, Self, Unpack

from sinkserve.client import requests
from sinkserve.client.errors import SinkServeError
from sinkserve.client.ledger import Ledger
from sinkserve.client.requests import GenerationOptions, Message
from sinkserve.client.retry import Retry
from sinkserve.client.stream import Route, Stream
from sinkserve.client.turn import Turn
from sinkserve.runtime.v1 import conversation_service_pb2 as pb

_FAREWELL_S = 2.0


class Conversation:
    """One session over one stream, which resumes by itself when it is lost. From `Client.conversation`.

        async with client.conversation("demo", system_prompt="Be brief.") as conversation:
            turn = await conversation.say("hello", max_new_tokens=50)
            async for delta in turn:
                print(delta.text, end="", flush=True)

    Entering opens the session, leaving closes the stream after the turns so far; the session lives on, see
    `close`. Leaving by an exception cancels the turns that run.
    """

    def __init__(self, route: Route, target: pb.NewSession | str, retry: Retry) -> None:
        self._ledger = Ledger(target)
        self._stream = Stream(route, self._ledger, retry)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            await self.close()
        else:
            await self.leave("cancel")

    @property
    def opened(self) -> pb.Opened:
        """What the server said at the last open: `resumed`, `system_prompt_pinned` and so on."""
        if self._ledger.opened is None:
            raise RuntimeError("the conversation is not open: use `async with`, or await open()")
        return self._ledger.opened

    @property
    def session(self) -> pb.Session:
        """The session as it was at the last open; `Client.sessions.get` has it as it is."""
        return self.opened.session

    @property
    def error(self) -> SinkServeError | None:
        """What ended the conversation, such as SESSION_TAKEN_OVER; None while it lives."""
        return self._ledger.error

    async def open(self) -> None:
        """Open the session. Raises NotFound for an unknown engine or session, Unreachable, and what the server says."""
        await self._stream.start()

    async def say(
        self,
        text: str,
        *,
        turn_id: str = "",
        no_reply: bool = False,
        allow_eviction_within_turn: bool = False,
        recall_tokens: int | None = None,
        recall_turns: Sequence[str] = (),
        **generation: Unpack[GenerationOptions],
    ) -> Turn:
        """Say something as the user; returns at once with the turn, whose reply comes as it is generated.

        Turns run in order, and any number may wait. What has left the window is read again as the session's
        `recall_tokens` say, or those of this turn; or, instead of a search, the turns whose ids are `recall_turns`.
        Raises what ended the conversation, if something did.
        """
        return await self.send(
            text=text,
            turn_id=turn_id,
            no_reply=no_reply,
            allow_eviction_within_turn=allow_eviction_within_turn,
            recall_tokens=recall_tokens,
            recall_turns=recall_turns,
            **generation,
        )

    async def answer(
        self,
        turn: Turn,
        results: Mapping[str, str],
        *,
        allow_eviction_within_turn: bool = False,
        **generation: Unpack[GenerationOptions],
    ) -> Turn:
        """Give the results of the calls of `turn`, by the ids of these; returns the turn that goes on with them.

            results = {call.id: run(call.name, json.loads(call.arguments)) for call in turn.tool_calls}
            turn = await conversation.answer(turn, results)

        Raises KeyError for a call that has no result.
        """
        messages = requests.results(turn.tool_calls, results)
        return await self.send(messages=messages, allow_eviction_within_turn=allow_eviction_within_turn, **generation)

    async def send(
        self,
        *,
        text: str | None = None,
        messages: Sequence[Message] | None = None,
        token_ids: Sequence[int] | None = None,
        turn_id: str = "",
        no_reply: bool = False,
        allow_eviction_within_turn: bool = False,
        recall_tokens: int | None = None,
        recall_turns: Sequence[str] = (),
        **generation: Unpack[GenerationOptions],
    ) -> Turn:
        """Send a turn of text, of messages or of bare tokens; otherwise as `say`.

        With `no_reply` the input is only fed. Give a `turn_id` to make a turn that outlives this process safe to
        repeat: the same id never runs twice in a session.
        """
        request = requests.turn_input(text, messages, token_ids)
        request.turn_id = turn_id or requests.new_id()
        request.no_reply = no_reply
        request.allow_eviction_within_turn = allow_eviction_within_turn
        request.generation.CopyFrom(requests.generation(generation))
        if (recall := requests.recall(recall_tokens, recall_turns)) is not None:
            request.recall.CopyFrom(recall)
        return self._add(request)

    async def close(self, *, delete: bool = False) -> None:
        """Close the stream when the turns so far have ended, and with `delete` delete the session then.

        Raises what kept the session from being deleted; turns carry their own errors.
        """
        if self._ledger.error is None and not self._ledger.closing:
            self._ledger.close(delete=delete)
            self._stream.wake()
        await self._stream.ended()
        if delete and self._ledger.error is not None:
            raise self._ledger.error

    async def leave(self, turns: Literal["cancel", "discard", "continue"]) -> None:
        """Close the stream now, whatever runs: turns are cancelled, or discarded, or go on without anybody who hears.

        A server that cannot be reached within two seconds does not hear of it.
        """
        if turns != "continue":
            for turn in self._ledger.unfinished:
                await turn.cancel(discard=turns == "discard")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.close(), _FAREWELL_S)
        await self._stream.drop()

    def _add(self, request: pb.Turn) -> Turn:
        if self._ledger.error is not None:
            raise self._ledger.error
        if self._ledger.opened is None or self._ledger.closing:
            raise RuntimeError("the conversation is not open")
        turn = Turn(request, self._stream.wake)
        self._ledger.add(turn)
        self._stream.wake()
        return turn
