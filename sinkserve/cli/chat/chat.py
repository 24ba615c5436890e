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

from sinkserve.cli.chat import options
from sinkserve.cli.chat.dialog import Dialog
from sinkserve.cli.chat.form import read_form
from sinkserve.cli.chat.template import read_variables
from sinkserve.cli.chat.tools import read_tools
from sinkserve.cli.chat.view import ChatView
from sinkserve.cli.terminal import console
from sinkserve.cli.terminal.failures import WRONG, Failure, exit_code, explained
from sinkserve.cli.terminal.options import Runtime, make_client
from sinkserve.client import Client, Conversation, GenerationOptions, SessionOptions, SinkServeError

_FORGOTTEN_S = 3600.0


@dataclass(frozen=True)
class Chat:
    """What to open, and how to talk."""

    engine: str | None = None
    session: str | None = None
    prompt: str | None = None
    keep: bool = False
    session_options: SessionOptions = field(default_factory=SessionOptions)
    generation: GenerationOptions = field(default_factory=GenerationOptions)
    resume_command: str = "sinkserve chat --session"


@explained()
def chat(  # noqa: PLR0917 - typer reads a command's options from its parameters
    engine: options.Engine = None,
    session: Annotated[str | None, typer.Option("--session", help="Resume this session instead.")] = None,
    prompt: options.Prompt = None,
    system: options.System = None,
    pin: options.Pin = None,
    window: options.Window = None,
    sinks: options.Sinks = None,
    recall_tokens: options.RecallTokens = None,
    on_full: options.OnFullChoice = None,
    template: options.Template = None,
    tools: options.Tools = None,
    tool_choice: options.ToolChoice = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the session after --prompt or a pipe.")] = False,
    max_new_tokens: options.MaxNewTokens = None,
    temperature: options.Temperature = None,
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    min_p: options.MinP = None,
    repetition_penalty: options.RepetitionPenalty = None,
    stop: options.Stop = None,
    seed: options.Seed = None,
    ignore_eos: options.IgnoreEos = None,
    speculated_tokens: options.SpeculatedTokens = None,
    json_schema: options.JsonSchema = None,
    form: options.Form = None,
    runtime: Runtime = None,
) -> None:
    """Talk to an engine.

    At a terminal Ctrl-C cancels the reply, and again leaves. From a pipe each line is a turn; only replies are printed.
    """
    new_session = given(system_prompt=system, pin_system_prompt=pin, window_tokens=window, sink_tokens=sinks)
    new_session |= given(recall_tokens=recall_tokens, on_full=on_full)
    generation = given(max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    generation |= given(repetition_penalty=repetition_penalty, stop=stop, seed=seed, ignore_eos=ignore_eos)
    generation |= given(speculated_tokens=speculated_tokens, tool_choice=tool_choice)
    generation |= given(response_format=read_form(json_schema, form))
    new_session |= given(template_variables=read_variables(template or ()) or None, tools=read_tools(tools))
    run_chat(_chat(engine, session, prompt, new_session, generation, keep=keep), runtime)


def _chat(
    engine: str | None,
    session: str | None,
    prompt: str | None,
    new_session: dict[str, object],
    generation: dict[str, object],
    *,
    keep: bool,
) -> Chat:
    """What to open, and how to talk, of what a person gave."""
    typed = cast("SessionOptions", new_session), cast("GenerationOptions", generation)
    return Chat(engine, session, prompt, keep, *typed)


def given(**values: object) -> dict[str, object]:
    """The options that a person gave."""
    return {key: value for key, value in values.items() if value is not None}


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
    new_session = asked.session_options.copy()
    if not (asked.keep or _at_terminal(asked)):
        new_session["delete_after_idle_s"] = _FORGOTTEN_S  # deleted at the end anyway, unless this process is killed
    return client.conversation(asked.engine, **new_session)


def _at_terminal(asked: Chat) -> bool:
    return asked.prompt is None and sys.stdin.isatty()


def _talk(runner: asyncio.Runner, dialog: Dialog, asked: Chat) -> None:
    at_terminal = _at_terminal(asked)
    view = ChatView(lively=at_terminal and console.out.is_terminal)
    if at_terminal:
        _load_line_editing()
        _show_losses()
        view.greet(dialog.conversation.opened, dialog.sampling)
        try:
            dialog.talk(runner, view)
        finally:
            view.print_resume_command(f"{asked.resume_command} {dialog.conversation.session.name}")
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
