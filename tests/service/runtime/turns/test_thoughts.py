"""Replies in a given form, and calls that are asked for, of an engine whose prompt opens a thought."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from common.spec.chat.tool_template import Marker, Reasoning
from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from tests.samples.vocabularies import ASSISTANT, SYSTEM, USER
from tests.service.runtime.runtime import Bench, text_of
from tests.service.runtime.tooled import REQUIRED, TOOLED, TOOLS, WINDOW, calling, joined

THINKING = Reasoning(
    opens=Marker(text="<|user|>", token_id=USER), closes=Marker(text="<|system|>", token_id=SYSTEM)
)  # tokens that the fake engine says now and then
OPENED = TOOLED.model_copy(update={"reasoning": THINKING, "assistant_before": (ASSISTANT, USER)})
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}


@pytest.fixture
async def thinker(tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path, {})
    bench.publish(text=OPENED)
    await bench.start()
    yield bench
    await bench.stop()


def thought_of(events: list[pb.ConverseResponse]) -> str:
    return "".join(event.delta.reasoning for event in events)


@pytest.mark.parametrize(
    ("asked", "pattern"),
    [
        (pb.ResponseFormat(json_schema=json.dumps(SCHEMA)), r'\{\s*"a"\s*:\s*-?\d+\s*\}'),
        (pb.ResponseFormat(regex="[ab]{2,4}x"), "[ab]{2,4}x"),
    ],
)
async def test_a_thought_comes_first_and_is_free(thinker: Bench, asked: pb.ResponseFormat, pattern: str) -> None:
    stream = await thinker.opened()
    options: dict[str, Any] = {"response_format": asked, "max_new_tokens": 6000, "temperature": 1.0, "seed": 4}
    await stream.turn("t", generation=options)
    events = await stream.until("finished")
    finished = events[-1].finished
    assert (finished.reason, finished.format_matched) == (pb.FINISH_REASON_STOP, True)
    assert re.fullmatch(pattern, text_of(events))
    assert thought_of(events).strip()
    assert 0 < finished.usage.reasoning_tokens < finished.usage.generated_tokens
    listed = await thinker.stub.ListTurns(pb.ListTurnsRequest(session=stream.session))
    assert (listed.turns[0].reply, listed.turns[0].reasoning) == (text_of(events), thought_of(events))


async def test_a_thought_that_is_cut_says_that_the_form_was_not_met(thinker: Bench) -> None:
    stream = await thinker.opened()
    options = {"response_format": pb.ResponseFormat(regex="ab"), "max_new_tokens": 3, "temperature": 1.0, "seed": 4}
    await stream.turn(generation=options)
    finished = (await stream.until("finished"))[-1].finished
    assert (finished.reason, finished.format_matched) == (pb.FINISH_REASON_LENGTH, False)


async def test_a_call_that_is_asked_for_comes_behind_the_thought(thinker: Bench) -> None:
    stream = await thinker.opened(tools=TOOLS, options=WINDOW)
    await stream.turn(generation=calling(REQUIRED, max_new_tokens=6000))
    events = await stream.until("finished")
    finished = events[-1].finished
    assert finished.reason == pb.FINISH_REASON_TOOL_CALLS
    assert joined(events) == list(finished.tool_calls)
    assert not any(call.incomplete for call in finished.tool_calls)
    assert thought_of(events).strip()
    assert text_of(events) == ""
