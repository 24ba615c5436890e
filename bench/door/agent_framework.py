"""A framework for agents at the door: are its conversations held, and what is fed for each turn?

    pip install openai-agents
    python bench/door/agent_framework.py http://127.0.0.1:8080 [--model demo] [--turns 20]

OpenAI's own framework talks in three ways: with responses and with chat completions it sends its whole history each
time, and it names the response before. Printed are tokens that were fed for the first turns and for the last; they are
the same where only what is new is fed.
"""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

from agents import Agent, ModelSettings, OpenAIChatCompletionsModel, OpenAIResponsesModel, Runner, set_tracing_disabled
from openai import AsyncOpenAI

LINES = ("my cat is called Miso", "what is my cat called?", "what is 3 + 4?", "tell me a joke")


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--turns", type=int, default=20)
    args = parser.parse_args()
    set_tracing_disabled(True)
    async with AsyncOpenAI(base_url=f"{args.url}/v1", api_key="none") as client:
        responses, chat = OpenAIResponsesModel(args.model, client), OpenAIChatCompletionsModel(args.model, client)
        for name, model, by_id in (
            ("responses, whole history", responses, False),
            ("chat completions, whole history", chat, False),
            ("responses, previous response", responses, True),
        ):
            fed, said = await talk(model, args.turns, by_id=by_id)
            print(f"{name:<32} fed {fed[:4]} ... {fed[-4:]}; at last: {said!r}")


async def talk(model: object, turns: int, *, by_id: bool) -> tuple[list[int], str]:
    """Tokens that were fed for each turn, and the last reply."""
    settings = ModelSettings(temperature=0)
    agent: Any = Agent(name="cat", instructions="Be brief.", model=model, model_settings=settings)
    history: list[Any] = []
    before, fed = None, []
    for number in range(turns):
        line = {"role": "user", "content": LINES[number % len(LINES)]}
        ran = await Runner.run(agent, [line] if by_id else [*history, line], previous_response_id=before)
        history = ran.to_input_list()
        before = ran.last_response_id if by_id else None
        fed.append(ran.raw_responses[-1].usage.input_tokens)
    return fed, str(ran.final_output)


if __name__ == "__main__":
    asyncio.run(main())
