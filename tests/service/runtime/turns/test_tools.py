"""Replies that call tools, over a real socket: told in pieces and whole, answered, and the same wherever they go on."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from builder_service.chat.tools.plain import plain_tools
from common.window import Geometry
from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from tests.samples.whole_manifests import TEMPLATE
from tests.service.runtime.runtime import GEOMETRY, Bench, info, text_of, violations

TOWNS = {"type": "object", "properties": {"town": {"enum": ["Graz", "Ulm"]}}, "required": ["town"]}
TOOLS = [
    pb.Tool(
        name="weather",
        description="How it is outside.",
        parameters=json.dumps({**TOWNS, "additionalProperties": False}),
    ),
    pb.Tool(name="now"),
]
WEATHER = pb.ToolChoice(function="weather")
REQUIRED = pb.ToolChoice(mode=pb.ToolChoice.MODE_REQUIRED)
WINDOW = pb.SessionOptions(sink_tokens=0)


def calling(choice: pb.ToolChoice = WEATHER, **options: Any) -> dict[str, Any]:
    return {"tool_choice": choice, "max_new_tokens": 400, "temperature": 1.0, "seed": 4, **options}


@asynccontextmanager
async def _serving(home: Path, geometry: Geometry = GEOMETRY) -> AsyncIterator[Bench]:
    bench = Bench(home, {}, geometry=geometry)
    bench.publish(text=TEMPLATE.model_copy(update={"tools": plain_tools(TEMPLATE, {})}))
    await bench.start()
    try:
        yield bench
    finally:
        await bench.stop()


@pytest.fixture
async def tooled(tmp_path: Path) -> AsyncIterator[Bench]:
    """A runtime whose engine has tools in a plain form."""
    async with _serving(tmp_path) as bench:
        yield bench


def joined(events: Iterable[pb.ConverseResponse]) -> list[pb.ToolCall]:
    """Calls that the pieces come to."""
    calls = list[pb.ToolCall]()
    for event in events:
        for piece in event.delta.tool_calls:
            if piece.index == len(calls):
                calls.append(pb.ToolCall(id=piece.id, name=piece.name))
            calls[piece.index].arguments += piece.arguments
    return calls


@pytest.mark.parametrize("drafts", [0, 4])
async def test_a_call_is_told_answered_and_kept(tooled: Bench, drafts: int) -> None:
    stream = await tooled.opened(tools=TOOLS, options=WINDOW)
    asked = {"generation": calling(speculated_tokens=drafts)}
    await stream.turn("t", **asked)
    events = await stream.until("finished")
    finished = events[-1].finished
    assert (finished.reason, text_of(events)) == (pb.FINISH_REASON_TOOL_CALLS, "")
    (call,) = finished.tool_calls
    assert (call.name, call.incomplete, joined(events)) == ("weather", False, [call])
    assert json.loads(call.arguments)["town"] in {"Graz", "Ulm"}
    result = pb.ChatMessage(role="tool", content="21 degrees", tool_call_id=call.id, name=call.name)
    await stream.turn("r", messages=pb.ChatMessages(messages=[result]))
    assert (await stream.finished()).reason == pb.FINISH_REASON_LENGTH

    await tooled.restart()
    again = await tooled.resumed(stream.session)
    assert again.events[0].opened.session.tool_names == ["weather", "now"]
    await again.turn("t", **asked)
    repeated = await again.until("finished")
    assert (repeated[-1].finished, joined(repeated)) == (finished, [call])
    listed = await tooled.stub.ListTurns(pb.ListTurnsRequest(session=stream.session))
    assert [list(turn.tool_calls) for turn in listed.turns] == [[call], []]
    assert listed.turns[0].reason == pb.FINISH_REASON_TOOL_CALLS
    assert list(listed.turns[1].messages.messages) == [result]


async def test_a_fork_calls_as_the_session_does(tooled: Bench) -> None:
    stream = await tooled.opened(tools=TOOLS, options=WINDOW)
    await stream.turn("t", generation=calling())
    await stream.until("finished")
    forked = (await tooled.stub.ForkSession(pb.ForkSessionRequest(name=stream.session))).session
    calls = []
    for session in (stream, await tooled.resumed(forked.name)):
        await session.turn("u", text="again", generation=calling(REQUIRED))
        calls.append([(call.name, call.arguments) for call in (await session.finished()).tool_calls])
    assert calls[0] == calls[1]
    assert calls[0]


async def test_what_is_cut_is_told_as_far_as_it_came(tooled: Bench) -> None:
    stream = await tooled.opened(tools=TOOLS, options=WINDOW)
    await stream.turn("t", generation=calling())
    whole = (await stream.finished()).usage.generated_tokens
    await stream.turn("u", generation=calling(max_new_tokens=whole - 25))
    events = await stream.until("finished")
    finished = events[-1].finished
    assert finished.reason == pb.FINISH_REASON_LENGTH
    assert all(call.incomplete for call in finished.tool_calls)
    assert [call.arguments for call in joined(events)] == [call.arguments for call in finished.tool_calls]


@pytest.mark.parametrize(("sinks", "pinned"), [(4, False), (600, True)])
async def test_tools_that_fit_the_sinks_are_pinned(tmp_path: Path, sinks: int, *, pinned: bool) -> None:
    async with _serving(tmp_path, Geometry(sinks=sinks, window=64, chunk=8, slots=4)) as bench:
        opened = (await bench.opened(tools=TOOLS)).events[0].opened
        assert (opened.tools_pinned, opened.session.options.sink_tokens == opened.session.position) == (pinned, pinned)
        assert not (await bench.opened()).events[0].opened.tools_pinned


@pytest.mark.parametrize(
    ("tools", "field"),
    [
        ([pb.Tool(name="a b")], "open.new_session.tools[0].name"),
        ([pb.Tool(name="a"), pb.Tool(name="a")], "open.new_session.tools[1].name"),
        ([pb.Tool(name="a", parameters="{")], "open.new_session.tools[0].parameters"),
        ([pb.Tool(name="a", parameters='{"type": "string"}')], "open.new_session.tools[0].parameters"),
        ([pb.Tool(name="a", parameters='{"a": ' * 70 + "1" + "}" * 70)], "open.new_session.tools[0].parameters"),
        ([pb.Tool(name="a", parameters=r'{"a": "\ud800"}')], "open.new_session.tools[0].parameters"),
        ([pb.Tool(name="a", parameters='{"a": NaN}')], "open.new_session.tools[0].parameters"),
        ([pb.Tool(name=f"a{index}") for index in range(65)], "open.new_session.tools"),
        ([pb.Tool(name="a", description="x" * (1 << 16))], "open.new_session.tools"),
    ],
)
async def test_tools_that_no_session_can_have_are_refused_by_name(
    tooled: Bench, tools: list[pb.Tool], field: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match=r"open\.new_session\.tools") as caught:
        await tooled.opened(tools=tools)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert field in str(caught.value.details())


@pytest.mark.parametrize(
    ("tools", "generation", "field"),
    [
        (TOOLS, {"tool_choice": pb.ToolChoice(function="cook")}, "turn.generation.tool_choice.function"),
        ([], {"tool_choice": REQUIRED}, "turn.generation.tool_choice"),
        (TOOLS, {"tool_choice": REQUIRED, "ignore_eos": True}, "turn.generation.ignore_eos"),
    ],
)
async def test_choices_that_a_session_does_not_have_are_refused_by_name(
    tooled: Bench, tools: list[pb.Tool], generation: dict[str, Any], field: str
) -> None:
    stream = await tooled.opened(tools=tools)
    await stream.turn("t", generation=generation)
    error = (await stream.rejected()).error
    assert info(error).reason == "INVALID_FIELD"
    assert field in violations(error) or info(error).metadata["field"] == field


async def test_an_engine_that_takes_no_tools_says_so(bench: Bench) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="takes none: it was built before there were any; build it again"):
        await bench.opened(tools=TOOLS)
