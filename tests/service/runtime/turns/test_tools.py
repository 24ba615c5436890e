"""Replies that call tools, over a real socket: told in pieces and whole, answered, and the same wherever they go on."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from common.window import Geometry
from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from tests.service.runtime.runtime import Bench, info, text_of, violations
from tests.service.runtime.tooled import AUTO, REQUIRED, TOOLS, WINDOW, calling, joined, result_of, serving_tools


@pytest.fixture
async def tooled(tmp_path: Path) -> AsyncIterator[Bench]:
    """A runtime whose engine has tools in a plain form."""
    async with serving_tools(tmp_path) as bench:
        yield bench


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
    result = result_of(call)
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


@pytest.mark.long
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
    async with serving_tools(tmp_path, Geometry(sinks=sinks, window=64, chunk=8, slots=4)) as bench:
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


async def test_a_reply_in_a_form_calls_nothing_even_if_it_looks_like_a_call(tooled: Bench) -> None:
    said = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
    stream = await tooled.opened(tools=TOOLS, options=WINDOW)
    form = pb.ResponseFormat(choice=pb.Choice(texts=[said]))
    await stream.turn("t", generation=calling(AUTO, response_format=form))
    events = await stream.until("finished")
    assert (text_of(events), list(events[-1].finished.tool_calls)) == (said, [])
    assert events[-1].finished.format_matched


async def test_results_of_no_call_twice_and_out_of_order_are_text_and_lose_nothing(tooled: Bench) -> None:
    stream = await tooled.opened(tools=TOOLS, options=pb.SessionOptions(sink_tokens=0))
    await stream.turn("t", generation=calling())
    (call,) = (await stream.finished()).tool_calls
    never = pb.ToolCall(id="<|end|>", name="no_tool")
    results = [result_of(each, "<|end|>") for each in (never, call, call)]
    for turn_id in ("r1", "r2"):
        await stream.turn(turn_id, messages=pb.ChatMessages(messages=results), allow_eviction_within_turn=True)
        assert (await stream.finished()).reason == pb.FINISH_REASON_LENGTH
    listed = (await tooled.stub.ListTurns(pb.ListTurnsRequest(session=stream.session))).turns
    assert [list(turn.messages.messages) for turn in listed[1:]] == [results, results]


async def test_an_engine_that_takes_no_tools_says_so(bench: Bench) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="takes none: it was built before there were any; build it again"):
        await bench.opened(tools=TOOLS)
