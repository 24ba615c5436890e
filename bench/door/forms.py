"""Replies by JSON schemas and calls of tools through OpenAI's client at temperature 1: all of them have to be valid.

    python bench/door/forms.py http://127.0.0.1:8080 [--model demo] [--tries 200]

Tries run 4 at a time, in four ways: responses and chat completions, whole and as a stream. As many call a tool and
answer it. Exits 1 unless every reply is valid by the jsonschema package, or says that it was cut, and every result of a
call got a reply.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections import Counter
from typing import Any

from openai import AsyncOpenAI

from bench.service.form_replies import ASKED, SCHEMAS, is_valid

PARAMETERS = {
    "type": "object",
    "properties": {"town": {"enum": ["Graz", "Ulm"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["town", "days"],
    "additionalProperties": False,
}
WEATHER = {"name": "weather", "description": "How it is outside.", "parameters": PARAMETERS}
QUESTION, RESULT = "How is the weather?", "21 degrees and sunny"
MOST = 1000


class Tries:
    """One client, one model."""

    def __init__(self, client: AsyncOpenAI, model: str) -> None:
        self._client: Any = client
        self._asked: dict[str, Any] = {"model": model, "temperature": 1.0}

    async def form(self, name: str, way: int) -> tuple[str, bool]:
        """A reply by a schema, and whether it was cut."""
        schema, asks = {"name": "asked", "schema": SCHEMAS[name]}, ASKED.format(name)
        if way % 2:
            form = {"type": "json_schema", "json_schema": schema}
            return await self._chat(asks, stream=way > 1, response_format=form)
        given = {"format": {"type": "json_schema", **schema}}
        return await self._response(asks, stream=way > 1, text=given)

    async def tool(self, way: int) -> tuple[bool, bool]:
        """Whether a tool is called as its schema says, and its result is answered with words; whether it was cut."""
        return await (self._tool_in_chat() if way % 2 else self._tool_in_responses())

    async def _chat(self, asks: str, *, stream: bool, **more: Any) -> tuple[str, bool]:  # noqa: ANN401 - as the client has them
        asked = {**self._asked, "messages": [{"role": "user", "content": asks}], "max_completion_tokens": MOST, **more}
        if not stream:
            choice = (await self._client.chat.completions.create(**asked)).choices[0]
            return choice.message.content or "", choice.finish_reason == "length"
        chunks = await self._client.chat.completions.create(**asked, stream=True)
        choices = [chunk.choices[0] async for chunk in chunks if chunk.choices]
        return "".join(choice.delta.content or "" for choice in choices), choices[-1].finish_reason == "length"

    async def _response(self, asks: str, *, stream: bool, **more: Any) -> tuple[str, bool]:  # noqa: ANN401 - as the client has them
        asked = {**self._asked, "input": asks, "max_output_tokens": MOST, **more}
        if not stream:
            response = await self._client.responses.create(**asked)
            return str(response.output_text), response.status == "incomplete"
        events = [event async for event in await self._client.responses.create(**asked, stream=True)]
        pieces = [event.delta for event in events if event.type == "response.output_text.delta"]
        return "".join(pieces), events[-1].type == "response.incomplete"

    async def _tool_in_responses(self) -> tuple[bool, bool]:
        tools = [{"type": "function", **WEATHER}]
        create = self._client.responses.create
        first = await create(input=QUESTION, tools=tools, tool_choice="required", max_output_tokens=MOST, **self._asked)
        if first.status == "incomplete":
            return False, True
        calls = [item for item in first.output if item.type == "function_call"]
        results = [{"type": "function_call_output", "call_id": call.call_id, "output": RESULT} for call in calls]
        asked = {**self._asked, "previous_response_id": first.id, "max_output_tokens": 20}
        second = await create(input=results, tools=tools, tool_choice="none", **asked)
        valid = all(is_valid(call.arguments, PARAMETERS) for call in calls)
        return bool(calls) and valid and bool(second.output_text), False

    async def _tool_in_chat(self) -> tuple[bool, bool]:
        tools = [{"type": "function", "function": WEATHER}]
        create, said = self._client.chat.completions.create, [{"role": "user", "content": QUESTION}]
        first = await create(
            messages=said, tools=tools, tool_choice="required", max_completion_tokens=MOST, **self._asked
        )
        if first.choices[0].finish_reason == "length":
            return False, True
        message = first.choices[0].message
        calls = message.tool_calls or []
        results = [{"role": "tool", "tool_call_id": call.id, "content": RESULT} for call in calls]
        history = [*said, message.model_dump(exclude_none=True), *results]
        asked = {**self._asked, "max_completion_tokens": 20}
        second = await create(messages=history, tools=tools, tool_choice="none", **asked)
        valid = all(is_valid(call.function.arguments, PARAMETERS) for call in calls)
        return bool(calls) and valid and bool(second.choices[0].message.content), False


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--tries", type=int, default=200)
    args = parser.parse_args()
    key = os.environ.get("OPENAI_API_KEY", "none")
    async with AsyncOpenAI(base_url=f"{args.url}/v1", api_key=key, timeout=600) as client:
        good, cut = await run(Tries(client, args.model), args.tries)
    for name in (*SCHEMAS, "a tool"):
        print(f"{name}: {good[name]} of {args.tries}, {cut[name]} cut and said so")
    return 0 if all(good[name] + cut[name] == args.tries for name in (*SCHEMAS, "a tool")) else 1


async def run(tries: Tries, count: int) -> tuple[Counter[str], Counter[str]]:
    """How many were good, of each kind, and how many were cut."""
    good, cut, room = Counter[str](), Counter[str](), asyncio.Semaphore(4)

    async def form(name: str, number: int) -> None:
        async with room:
            text, is_cut = await tries.form(name, number % 4)
        if is_cut:
            cut[name] += 1
        elif is_valid(text, SCHEMAS[name]):
            good[name] += 1
        else:
            print(f"not valid: {text}", file=sys.stderr)

    async def tool(number: int) -> None:
        async with room:
            answered, is_cut = await tries.tool(number)
        good["a tool"] += answered
        cut["a tool"] += is_cut

    await asyncio.gather(
        *(form(name, number) for number in range(count) for name in SCHEMAS), *(tool(number) for number in range(count))
    )
    return good, cut


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
