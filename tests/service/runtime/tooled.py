"""An engine that has tools in a plain form, tools for it, and what its replies call."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from builder_service.chat.tools.plain import plain_tools
from common.window import Geometry
from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from tests.samples.whole_manifests import TEMPLATE
from tests.service.runtime.runtime import GEOMETRY, Bench

TOOLED = TEMPLATE.model_copy(update={"tools": plain_tools(TEMPLATE, {})})
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
AUTO = pb.ToolChoice(mode=pb.ToolChoice.MODE_AUTO)
REQUIRED = pb.ToolChoice(mode=pb.ToolChoice.MODE_REQUIRED)
WINDOW = pb.SessionOptions(sink_tokens=0)


def calling(choice: pb.ToolChoice = WEATHER, **options: Any) -> dict[str, Any]:
    return {"tool_choice": choice, "max_new_tokens": 400, "temperature": 1.0, "seed": 4, **options}


@asynccontextmanager
async def serving_tools(home: Path, geometry: Geometry = GEOMETRY, **settings: Any) -> AsyncIterator[Bench]:
    bench = Bench(home, settings, geometry=geometry)
    bench.publish(text=TOOLED)
    await bench.start()
    try:
        yield bench
    finally:
        await bench.stop()


def joined(events: Iterable[pb.ConverseResponse]) -> list[pb.ToolCall]:
    """Calls that the pieces come to."""
    calls = list[pb.ToolCall]()
    for event in events:
        for piece in event.delta.tool_calls:
            if piece.index == len(calls):
                calls.append(pb.ToolCall(id=piece.id, name=piece.name))
            calls[piece.index].arguments += piece.arguments
    return calls


def result_of(call: pb.ToolCall, content: str = "21 degrees") -> pb.ChatMessage:
    return pb.ChatMessage(role="tool", content=content, tool_call_id=call.id, name=call.name)
