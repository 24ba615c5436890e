"""The client of this package, without a stream."""

from __future__ import annotations

import pytest

from sinkserve.client import Client, FinishReason, NotFound
from tests.service.runtime.runtime import Bench


async def test_the_client_creates_sessions_and_cancels_turns(bench: Bench) -> None:
    async with Client(bench.handle.address, "nowhere:1") as client:
        session = await client.sessions.create("demo", session_id="mine", system_prompt="be brief", labels={"k": "v"})
        assert (session.name, session.labels["k"]) == ("sessions/mine", "v")
        again = client.sessions.create("demo", session_id="mine", system_prompt="be brief", labels={"k": "v"})
        assert (await again).name == session.name
        assert (await client.sessions.create("demo")).name != (await client.sessions.create("demo")).name
        async with client.conversation(session=session.name) as conversation:
            turn = await conversation.say("hello", max_new_tokens=5000, ignore_eos=True)
            await anext(aiter(turn))
            await client.sessions.cancel_turn(session.name, turn.id, discard=True)
            assert (await turn.wait()).reason is FinishReason.CANCELLED
        with pytest.raises(NotFound):
            await client.sessions.cancel_turn("sessions/none", turn.id)
