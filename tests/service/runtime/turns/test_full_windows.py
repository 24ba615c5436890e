"""Turns that fill the window of their session, over a real socket: what is evicted, and what is refused."""

from __future__ import annotations

import grpc
import pytest

from common.text.wrapping import Wrapping
from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from tests.service.runtime.runtime import ENDLESS, Bench, info

WINDOW = pb.SessionOptions(window_tokens=20, sink_tokens=2)


async def test_a_conversation_goes_on_past_its_window(bench: Bench) -> None:
    stream = await bench.opened(options=WINDOW)
    evicted = 0
    for _ in range(10):
        await stream.turn()
        finished = await stream.finished()
        evicted += finished.usage.evicted_tokens
    assert finished.usage.position > 5 * 22
    assert evicted == finished.usage.position - 22


async def test_a_session_that_does_not_evict_fills_and_then_refuses(bench: Bench) -> None:
    options = pb.SessionOptions(window_tokens=20, sink_tokens=2, on_full=pb.SessionOptions.ON_FULL_ERROR)
    stream = await bench.opened(options=options)
    await stream.turn(generation=ENDLESS)
    finished = await stream.finished()
    assert finished.reason == pb.FINISH_REASON_CONTEXT_FULL
    assert finished.usage.position == 22
    await stream.turn()
    rejected = await stream.rejected()
    assert rejected.error.code == grpc.StatusCode.FAILED_PRECONDITION.value[0]
    assert info(rejected.error).reason == "CONTEXT_FULL"


async def test_what_the_model_still_sees_is_told_wherever_the_session_goes_on(bench: Bench) -> None:
    """The same by the turn, by the session, after a rewind, in a fork, and when it is taken up again."""
    stream, told = await bench.opened(session_id="s", options=WINDOW), list[pb.TurnFinished]()
    name = "sessions/s"
    for number in range(6):
        await stream.turn(f"t{number}", token_ids=pb.TokenIds(ids=[1, 2, 3, 4]))
        told.append(await stream.finished())
    starts = [finished.usage.window_start_position for finished in told]
    assert starts == [max(2, finished.usage.position - 20) for finished in told]
    assert told[0].usage.oldest_visible_turn == "t0"
    assert told[5].usage.oldest_visible_turn not in ("", "t0")
    assert all(not finished.HasField("notice") for finished in told)
    assert _view((await bench.stub.GetSession(pb.GetSessionRequest(name=name))).session) == _view(told[5].usage)
    for turn in (2, 4):
        fork = await bench.stub.ForkSession(pb.ForkSessionRequest(name=name, turn_id=f"t{turn}"))
        assert _view(fork.session) == _view(told[turn].usage)
    rewound = await bench.stub.RewindSession(pb.RewindSessionRequest(name=name, turn_id="t3"))
    assert _view(rewound.session) == _view(told[3].usage)
    again = bench.stream()
    assert _view((await again.resume(name)).session) == _view(told[3].usage)
    await again.turn("t4 again", token_ids=pb.TokenIds(ids=[1, 2, 3, 4]))
    usage = (await again.finished()).usage
    assert (usage.window_start_position, usage.evicted_tokens) == (starts[4], starts[4] - starts[3])


def _view(told: pb.Usage | pb.Session) -> tuple[int, int, str]:
    return told.position, told.window_start_position, told.oldest_visible_turn


async def test_a_session_that_notifies_says_what_leaves_when_it_leaves(bench: Bench) -> None:
    options = pb.SessionOptions(window_tokens=20, sink_tokens=2, on_full=pb.SessionOptions.ON_FULL_NOTIFY)
    stream, notices = await bench.opened(options=options), list[pb.WindowNotice]()
    for number in range(5):
        await stream.turn(f"t{number}", token_ids=pb.TokenIds(ids=[1, 2, 3, 4]))
        finished = await stream.finished()
        assert finished.HasField("notice") == bool(finished.usage.evicted_tokens)
        if finished.HasField("notice"):
            notices.append(finished.notice)
    assert [notice.start_position for notice in notices] == [2, *(notice.end_position for notice in notices[:-1])]
    assert notices[-1].end_position == finished.usage.window_start_position
    named = [turn_id for notice in notices for turn_id in notice.turn_ids]
    assert named == [f"t{number}" for number in range(len(named))], "each once, in order"
    assert finished.usage.oldest_visible_turn == f"t{len(named)}"


async def test_an_input_longer_than_the_window_is_refused_unless_allowed(bench: Bench) -> None:
    stream = await bench.opened(options=WINDOW)
    ids = pb.TokenIds(ids=list(range(30)))
    await stream.turn("long", token_ids=ids)
    rejected = await stream.rejected()
    assert info(rejected.error).reason == "TURN_EXCEEDS_WINDOW"
    assert info(rejected.error).metadata == {"tokens": "30", "window": "20", "retry": "never"}
    await stream.turn("long", token_ids=ids, allow_eviction_within_turn=True)
    assert (await stream.finished()).usage.prompt_tokens == 30


async def test_an_input_far_too_long_is_refused_without_encoding_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[str] = []

    def noted(_wrapping: Wrapping, content: str, _encode: object) -> tuple[int, ...]:
        encoded.append(content)
        return (7,) * 21

    monkeypatch.setattr(Wrapping, "_of_user", noted)
    stream = await bench.opened(options=WINDOW)
    said = pb.ChatMessages(messages=[pb.ChatMessage(role="user", content="a b " * 25_000)])
    for turn in ({"text": "a b " * 25_000}, {"messages": said}):
        await stream.turn("long", **turn)
        rejected = await stream.rejected()
        assert info(rejected.error).reason == "TURN_EXCEEDS_WINDOW"
        assert "at least" in rejected.error.message
        assert encoded == []
    await stream.turn("long", text="a b " * 25_000, allow_eviction_within_turn=True)
    assert (await stream.finished()).usage.prompt_tokens == 24
    assert len(encoded) == 1
