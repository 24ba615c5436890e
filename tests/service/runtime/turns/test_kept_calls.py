"""Turns that call tools are turns as others are: rewound to, restored from a snapshot, and recalled."""

from __future__ import annotations

from pathlib import Path

from common.window import Geometry
from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from tests.service.runtime.runtime import Bench, Stream, tokens_of
from tests.service.runtime.tooled import TOOLS, WINDOW, calling, result_of, serving_tools

NOW = calling(pb.ToolChoice(function="now"))


async def _answered(stream: Stream, turn_id: str, call: pb.ToolCall) -> list[int]:
    """What the model says to the result of a call."""
    await stream.turn(turn_id, messages=pb.ChatMessages(messages=[result_of(call)]))
    return tokens_of(await stream.until("finished"))


async def _called(bench: Bench, options: pb.SessionOptions = WINDOW) -> tuple[Stream, pb.ToolCall]:
    stream = await bench.opened(session_id="s", tools=TOOLS, options=options)
    await stream.turn("t", generation=calling())
    return stream, (await stream.finished()).tool_calls[0]


async def test_a_call_that_is_rewound_to_is_answered_again_and_one_that_is_dropped_made_again(tmp_path: Path) -> None:
    async with serving_tools(tmp_path) as bench:
        stream, call = await _called(bench)
        said = await _answered(stream, "r", call)
        await bench.stub.RewindSession(pb.RewindSessionRequest(name="sessions/s", turn_id="t"))
        assert await _answered(await bench.resumed("sessions/s"), "r", call) == said
        await bench.stub.RewindSession(pb.RewindSessionRequest(name="sessions/s", turn_id="t", drop_turn=True))
        again = await bench.resumed("sessions/s")
        await again.turn("t", generation=calling())
        assert list((await again.finished()).tool_calls) == [call]


async def test_a_session_that_comes_back_from_its_snapshot_answers_its_call_as_if_it_had_stayed(tmp_path: Path) -> None:
    async with serving_tools(tmp_path, durability="tokens_and_kv", snapshot_turns=1) as bench:
        stream, call = await _called(bench)
        await bench.stub.ForkSession(pb.ForkSessionRequest(name="sessions/s", session_id="f"))
        expected = await _answered(await bench.resumed("sessions/f"), "r", call)
        await stream.half_close()
        await bench.restart()
        assert await _answered(await bench.resumed("sessions/s"), "r", call) == expected
        moves = bench.handle.engines.loaded[0].thread.scheduler.moves
        assert (moves.restored, moves.replayed) == (1, 0)


async def test_a_call_that_left_the_window_is_found_by_its_words_and_read_again_whole(tmp_path: Path) -> None:
    async with serving_tools(tmp_path, Geometry(sinks=4, window=512, chunk=64, slots=4)) as bench:
        stream, _ = await _called(bench, pb.SessionOptions(sink_tokens=0, recall_tokens=128))
        before = len(stream.events)
        for number in range(3):
            await stream.said(f"filler{number}", "good day to you " * 25, no_reply=True)
        await stream.turn("q", text="weather Graz Ulm", generation={"max_new_tokens": 2})
        events = await stream.until("finished")
        (recalled,) = events[0].started.recalled
        usage = stream.events[before - 1].finished.usage
        assert recalled.turn_id == "t"
        assert recalled.tokens >= usage.prompt_tokens + usage.generated_tokens
