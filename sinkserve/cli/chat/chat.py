"""`sinkserve chat`: talk to an engine, at a terminal, in one prompt, or from a pipe."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Annotated, cast

import typer

from sinkserve.cli.chat.dialog import Dialog
from sinkserve.cli.chat.view import ChatView
from sinkserve.cli.terminal import console
from sinkserve.cli.terminal.failures import WRONG, Failure, exit_code, explained
from sinkserve.cli.terminal.options import Runtime, make_client
from sinkserve.client import Client, Conversation, GenerationOptions, SessionOptions, SinkServeError

_FORGOTTEN_S = 3600.0


@dataclass(frozen=True)
class Chat:
    """What to open, and how to talk."""

    engine: str | None
    session: str | None = None
    prompt: str | None = None
    keep: bool = False
    session_options: SessionOptions = field(default_factory=SessionOptions)
    generation: GenerationOptions = field(default_factory=GenerationOptions)
    comeback: str = "sinkserve chat --session"


def chat(  # noqa: PLR0917 - typer reads a command's options from its parameters
    engine: Annotated[
        str | None,
        typer.Argument(metavar="ENGINE", help="NAME, NAME:ALIAS, NAME@VERSION or NAME@sha256:HEX."),
    ] = None,
    session: Annotated[str | None, typer.Option("--session", help="Resume this session instead.")] = None,
    prompt: Annotated[str | None, typer.Option("--prompt", "-p", help="Say this, print the reply, leave.")] = None,
    system: Annotated[str | None, typer.Option("--system", help="A system prompt.")] = None,
    pin: Annotated[
        bool | None, typer.Option("--pin/--no-pin", help="Keep the system prompt for ever (default: if it fits).")
    ] = None,
    window: Annotated[int | None, typer.Option("--window", help="Recent tokens to keep, at most the engine's.")] = None,
    sinks: Annotated[int | None, typer.Option("--sinks", help="First tokens to keep, at most the engine's.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the session after --prompt or a pipe.")] = False,
    max_new_tokens: Annotated[int | None, typer.Option("--max-new-tokens", help="Longest reply, in tokens.")] = None,
    temperature: Annotated[float | None, typer.Option("--temperature", help="0 is greedy.")] = None,
    top_k: Annotated[int | None, typer.Option("--top-k", help="Sample among the k likeliest.")] = None,
    top_p: Annotated[float | None, typer.Option("--top-p", help="Sample among those that together reach p.")] = None,
    min_p: Annotated[float | None, typer.Option("--min-p", help="Drop those below this share of the best.")] = None,
    repetition_penalty: Annotated[float | None, typer.Option("--repetition-penalty", help="1 is off.")] = None,
    stop: Annotated[list[str] | None, typer.Option("--stop", help="Stop before this text; may be repeated.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Same seed, same conversation: same reply.")] = None,
    ignore_eos: Annotated[bool | None, typer.Option("--ignore-eos", help="Go on past the model's own end.")] = None,
    speculated_tokens: Annotated[
        int | None, typer.Option("--speculated-tokens", help="Most tokens to guess and check at once; 0 is none.")
    ] = None,
    runtime: Runtime = None,
) -> None:
    """Talk to an engine.

    At a terminal Ctrl-C cancels the reply, and pressed again leaves. From a pipe, each line is a turn, and only
    replies are printed.
    """
    asked = Chat(
        engine=engine,
        session=session,
        prompt=prompt,
        keep=keep,
        session_options=cast(
            "SessionOptions",
            _given(system_prompt=system, pin_system_prompt=pin, window_tokens=window, sink_tokens=sinks),
        ),
        generation=cast(
            "GenerationOptions",
            _given(
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
                min_p=min_p,
                repetition_penalty=repetition_penalty,
                stop=stop,
                seed=seed,
                ignore_eos=ignore_eos,
                speculated_tokens=speculated_tokens,
            ),
        ),
    )
    with explained():
        run_chat(asked, runtime)


def _given(**options: object) -> dict[str, object]:
    return {key: value for key, value in options.items() if value is not None}


def run_chat(asked: Chat, runtime: str | None) -> None:
    """Open what was asked for, talk, and close; raises what `failures.explained` explains."""
    with asyncio.Runner() as runner:
        client = runner.run(_make(runtime))
        try:
            conversation = _conversation(client, asked)
            runner.run(conversation.open())
            _talk(runner, Dialog(client, conversation, asked.generation), asked)
        finally:
            runner.run(client.close())


async def _make(runtime: str | None) -> Client:
    return make_client(runtime=runtime)


def _conversation(client: Client, asked: Chat) -> Conversation:
    if asked.session is not None and (asked.engine is not None or asked.session_options):
        message = "--session resumes a session as it is: leave out the engine and the options of new sessions"
        raise Failure(message, code=WRONG)
    if asked.session is not None:
        return client.conversation(session=asked.session)
    if asked.engine is None:
        hint = "`sinkserve engines list` shows what there is"
        raise Failure("name an engine, or a session with --session", hint=hint, code=WRONG)
    options = asked.session_options.copy()
    if not (asked.keep or _at_terminal(asked)):
        options["delete_after_idle_s"] = _FORGOTTEN_S  # deleted at the end anyway, unless this process is killed
    return client.conversation(asked.engine, **options)


def _at_terminal(asked: Chat) -> bool:
    return asked.prompt is None and sys.stdin.isatty()


def _talk(runner: asyncio.Runner, dialog: Dialog, asked: Chat) -> None:
    at_terminal = _at_terminal(asked)
    view = ChatView(lively=at_terminal and console.out.is_terminal)
    if at_terminal:
        _load_line_editing()
        _show_losses()
        view.greet(dialog.conversation.opened)
        try:
            dialog.talk(runner, view)
        finally:
            view.farewell(f"{asked.comeback} {dialog.conversation.session.name}")
        runner.run(dialog.conversation.close())
        if dialog.conversation.error is not None:
            raise typer.Exit(exit_code(dialog.conversation.error))
        return
    lines = (asked.prompt,) if asked.prompt is not None else sys.stdin
    keep = asked.keep or asked.session is not None
    code = runner.run(_recite(dialog, view, lines))
    with contextlib.suppress(SinkServeError):  # what kept it from closing was said already
        runner.run(dialog.conversation.close(delete=not keep))
    if code:
        raise typer.Exit(code)


def _load_line_editing() -> None:
    """Arrow keys and history at the prompt, where Python has them."""
    with contextlib.suppress(ImportError):
        import_module("readline")


def _show_losses() -> None:
    """Say when the connection is lost, so that a person knows what they wait for."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:  # noqa: ARG002 - the details would not help
            console.err.print("[dim]the connection was lost, trying to get it back[/]")

    log = logging.getLogger("sinkserve.client")
    log.setLevel(logging.INFO)
    log.addHandler(Handler())


async def _recite(dialog: Dialog, view: ChatView, lines: Iterable[str]) -> int:
    """Say every line, up to one that fails; returns the exit code."""
    for line in lines:
        try:
            if line.strip():
                await dialog.say(line.strip(), view)
        except SinkServeError as error:
            return exit_code(error)
    return 0
