"""Options of `chat` and `run`: how a session begins and how its replies are generated."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from common.spec.model_spec import Precision
from sinkserve.client import OnFull

Engine = Annotated[
    str | None, typer.Argument(metavar="ENGINE", help="NAME, NAME:ALIAS, NAME@VERSION or NAME@sha256:HEX.")
]
Weights = Annotated[
    Precision | None,
    typer.Option("--precision", help="How weights are held; else as is fastest and loses next to nothing."),
]
Prompt = Annotated[str | None, typer.Option("--prompt", "-p", help="Say this, print the reply, leave.")]
System = Annotated[str | None, typer.Option("--system", help="A system prompt.")]
Pin = Annotated[
    bool | None, typer.Option("--pin/--no-pin", help="Keep the system prompt for ever (default: if it fits).")
]
Window = Annotated[int | None, typer.Option("--window", help="Recent tokens to keep, at most the engine's.")]
Sinks = Annotated[int | None, typer.Option("--sinks", help="First tokens to keep, at most the engine's.")]
RecallTokens = Annotated[
    int | None,
    typer.Option("--recall-tokens", help="Read again what fits of what has left the window; 0 is nothing."),
]
OnFullChoice = Annotated[
    OnFull | None,
    typer.Option(
        "--on-full",
        help="When the window is full: evict the oldest tokens (default), notify of what left, or end with an error.",
    ),
]
Template = Annotated[
    list[str] | None,
    typer.Option(
        "--template", metavar="NAME=VALUE", help="Of the chat template, such as enable_thinking=false; repeated."
    ),
]
Tools = Annotated[
    Path | None,
    typer.Option("--tools", metavar="FILE", help="JSON file of tools that replies may call; you say what they answer."),
]
ToolChoice = Annotated[
    str | None, typer.Option("--tool-choice", help="auto (default), none, required, or the name of a tool.")
]
MaxNewTokens = Annotated[int | None, typer.Option("--max-new-tokens", help="Longest reply, in tokens.")]
Temperature = Annotated[float | None, typer.Option("--temperature", help="0 is greedy.")]
TopK = Annotated[int | None, typer.Option("--top-k", help="Sample among the k likeliest.")]
TopP = Annotated[float | None, typer.Option("--top-p", help="Sample among those that together reach p.")]
MinP = Annotated[float | None, typer.Option("--min-p", help="Drop those below this share of the best.")]
RepetitionPenalty = Annotated[float | None, typer.Option("--repetition-penalty", help="1 is off.")]
Stop = Annotated[list[str] | None, typer.Option("--stop", help="Stop before this text; may be repeated.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Same seed, same conversation: same reply.")]
IgnoreEos = Annotated[bool | None, typer.Option("--ignore-eos", help="Go on past the model's own end.")]
SpeculatedTokens = Annotated[
    int | None, typer.Option("--speculated-tokens", help="Most tokens to guess and check at once; 0 is none.")
]
JsonSchema = Annotated[
    Path | None, typer.Option("--json-schema", metavar="FILE", help="Replies are JSON by the schema in FILE.")
]
Form = Annotated[
    str | None,
    typer.Option("--form", metavar="KIND WHAT", help="Replies have this form, as /form in a chat: 'regex [0-9]+'."),
]
