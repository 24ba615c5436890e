"""`sinkserve usage`: what principals have used."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from sinkserve.cli.terminal import console
from sinkserve.cli.terminal.options import Json, Runtime, ask
from sinkserve.client import Client
from sinkserve.runtime.v1.usage_service_pb2 import DayUsage


def usage(
    principal: Annotated[str, typer.Option("--principal", help="Only this one's.")] = "",
    from_day: Annotated[str, typer.Option("--from", metavar="YYYY-MM-DD", help="From this day of UTC on.")] = "",
    to_day: Annotated[str, typer.Option("--to", metavar="YYYY-MM-DD", help="Until this day, and with it.")] = "",
    json: Json = False,
    runtime: Runtime = None,
) -> None:
    """Turns and tokens by principal, day and engine.

    Your own, or, for an admin, everybody's.
    """

    async def command(client: Client) -> None:
        found = client.sessions.usage(principal=principal, from_day=from_day, to_day=to_day)
        days = [each async for each in found]
        if json:
            console.print_json(usage=days)
            return
        heads = ("PRINCIPAL", "DAY", "ENGINE", "TURNS#", "PROMPT TOKENS#", "GENERATED TOKENS#")
        console.print_table(heads, [_row(each) for each in days], "nothing was used")

    ask(command, runtime=runtime)


def _row(each: DayUsage) -> tuple[str, ...]:
    counts = (each.turns, each.prompt_tokens, each.generated_tokens)
    return (escape(each.principal), each.day, escape(each.engine), *(f"{count:,}" for count in counts))
