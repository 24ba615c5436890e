"""`sinkserve sessions`: conversations that the runtime holds."""

from __future__ import annotations

from typing import Annotated, Literal

import typer
from rich.markup import escape

from sinkserve.cli.terminal import console
from sinkserve.cli.terminal.options import Json, Runtime, ask
from sinkserve.cli.terminal.window_picture import picture
from sinkserve.client import Client
from sinkserve.runtime.v1.conversation_service_pb2 import FinishReason, Session, SessionOptions, TurnRecord

app = typer.Typer(help="Conversations that the runtime holds.")

Name = Annotated[str, typer.Argument(metavar="SESSION", help="sessions/ID, or the ID alone.")]


Labels = Annotated[list[str] | None, typer.Option("--label", metavar="KEY=VALUE", help="Give it for each label.")]


@app.command("list")
def list_sessions(
    label: Labels = None,
    engine: Annotated[str, typer.Option("--engine", help="NAME for every version, or an engine reference.")] = "",
    json: Json = False,
    runtime: Runtime = None,
) -> None:
    """List sessions, the last active first: all, or those with all labels and the engine asked for."""
    labels = _labels(label)

    async def command(client: Client) -> None:
        sessions = [session async for session in client.sessions.list(labels=labels, engine=engine)]
        if json:
            console.print_json(sessions=sessions)
            return
        heads = ("SESSION", "ENGINE", "TURNS#", "POSITION#", "STATE", "LAST ACTIVE")
        console.print_table(heads, [_row(session) for session in sessions], "no sessions")

    ask(command, runtime=runtime)


def _row(session: Session) -> tuple[str, ...]:
    return (
        session.name,
        escape(session.engine),
        f"{session.turns:,}",
        f"{session.position:,}",
        state(session),
        console.ago(session.last_active_time),
    )


@app.command()
def show(name: Name, json: Json = False, runtime: Runtime = None) -> None:
    """Print a conversation."""

    async def command(client: Client) -> None:
        session = await client.sessions.get(session_name(name))
        turns = [turn async for turn in client.sessions.turns(session.name)]
        if json:
            console.print_json(session=session, turns=turns)
            return
        console.print_facts(facts(session))
        for turn in turns:
            if session.evicted_tokens and turn.turn_id == session.oldest_visible_turn:
                console.out.print("\n[dim]── what follows the model sees whole ──[/]")
            _print_turn(turn)
        console.out.print()
        for line in picture(session, console.out.width, escape(session.oldest_visible_turn)):
            console.out.print(line)

    ask(command, runtime=runtime)


@app.command()
def update(  # noqa: PLR0917 - typer reads a command's options from its parameters
    name: Name,
    label: Labels = None,
    no_labels: Annotated[bool, typer.Option("--no-labels", help="Take every label away.")] = False,
    idle: Annotated[
        str | None,
        typer.Option("--delete-after-idle", metavar="SECONDS", help='Counted from now on; or "never".'),
    ] = None,
    json: Json = False,
    runtime: Runtime = None,
) -> None:
    """Change a session's labels, which take the place of all that it has, or when it is deleted."""
    if label and no_labels:
        raise typer.BadParameter("--label and --no-labels exclude each other")
    if not (label or no_labels or idle):
        raise typer.BadParameter("nothing to change: give --label, --no-labels or --delete-after-idle")
    labels, idle_s = _labels(label) if label or no_labels else None, _idle(idle)

    async def command(client: Client) -> None:
        session = await client.sessions.update(session_name(name), labels=labels, delete_after_idle_s=idle_s)
        if json:
            console.print_json(session=session)
        else:
            console.print_facts(facts(session))

    ask(command, runtime=runtime)


@app.command()
def fork(
    name: Name,
    at: Annotated[str, typer.Option("--at", metavar="TURN", help="The last turn of the copy; else all.")] = "",
    engine: Annotated[str, typer.Option("--engine", help="Go on with another version, of the same tokens.")] = "",
    json: Json = False,
    runtime: Runtime = None,
) -> None:
    """Copy a conversation into a new session, which may go another way."""

    async def command(client: Client) -> None:
        session = await client.sessions.fork(session_name(name), at, engine=engine)
        if json:
            console.print_json(session=session)
            return
        console.out.print(f"{session.name} [dim]· next: sinkserve chat --session {session.name}[/]")

    ask(command, runtime=runtime)


@app.command()
def rewind(
    name: Name,
    turn: Annotated[str, typer.Argument(metavar="TURN", help="The last turn that stays; `show` has their ids.")],
    drop: Annotated[bool, typer.Option("--drop", help="Drop that turn too.")] = False,
    runtime: Runtime = None,
) -> None:
    """Drop all turns of a conversation after one, for ever."""

    async def command(client: Client) -> None:
        session = await client.sessions.rewind(session_name(name), turn, drop_turn=drop)
        turns = f"{session.turns:,} {'turn' if session.turns == 1 else 'turns'}"
        console.out.print(f"{session.name} has {turns} left [dim]· position {session.position:,}[/]")

    ask(command, runtime=runtime)


@app.command()
def delete(
    names: Annotated[list[str], typer.Argument(metavar="SESSION...", help="sessions/ID, or IDs alone.")],
    runtime: Runtime = None,
) -> None:
    """Delete sessions: a running turn is cancelled, a stream on it ends."""

    async def command(client: Client) -> None:
        for name in names:
            await client.sessions.delete(session_name(name))
            console.out.print(f"{session_name(name)} is deleted")

    ask(command, runtime=runtime)


def _labels(texts: list[str] | None) -> dict[str, str]:
    """Labels of KEY=VALUE."""
    pairs = [text.partition("=") for text in texts or ()]
    for key, mark, _ in pairs:
        if not (key and mark):
            raise typer.BadParameter(f"{key!r} is not KEY=VALUE", param_hint="--label")
    return {key: value for key, _, value in pairs}


def _idle(text: str | None) -> float | Literal["never"] | None:
    if not text:
        return None
    if text == "never":
        return "never"
    try:
        return float(text)
    except ValueError:
        hint = "--delete-after-idle"
        raise typer.BadParameter(f"{text!r} is neither a number of seconds nor never", param_hint=hint) from None


def session_name(name: str) -> str:
    """sessions/ID of an ID or of itself."""
    return name if name.startswith("sessions/") else f"sessions/{name}"


def state(session: Session) -> str:
    """Where a session's cache is, in a word."""
    return Session.State.Name(session.state).removeprefix("STATE_").lower()


def facts(session: Session) -> tuple[tuple[str, str], ...]:
    """What there is to know of a session, for `print_facts`."""
    options = session.options
    return (
        ("session", session.name),
        ("engine", escape(session.engine)),
        ("turns", f"{session.turns:,}"),
        ("position", f"{session.position:,}"),
        ("keeps", f"{options.sink_tokens} sinks + {options.window_tokens} tokens" if options.window_tokens else ""),
        ("recalls", f"up to {options.recall_tokens} tokens a turn" if options.recall_tokens else ""),
        ("pinned", escape(", ".join(session.pinned_turns))),
        ("forgotten", f"{session.evicted_tokens:,} tokens" if session.evicted_tokens else ""),
        ("state", state(session)),
        ("outlives its server", _durability(options)),
        ("without a connection", _on_disconnect(options)),
        ("labels", escape(", ".join(f"{key}={value}" for key, value in sorted(session.labels.items())))),
        ("created", console.local_time(session.create_time)),
        ("last active", console.local_time(session.last_active_time)),
        ("expires", console.local_time(session.expire_time)),
    )


def _durability(options: SessionOptions) -> str:
    words = {
        SessionOptions.DURABILITY_NONE: "nothing",
        SessionOptions.DURABILITY_TOKENS: "its turns",
        SessionOptions.DURABILITY_TOKENS_AND_KV: "its turns, and snapshots of the cache",
    }
    return words.get(options.durability, "")


def _on_disconnect(options: SessionOptions) -> str:
    words = {
        SessionOptions.ON_DISCONNECT_CONTINUE: "turns go on",
        SessionOptions.ON_DISCONNECT_CANCEL: "turns are cancelled",
    }
    return words.get(options.on_disconnect, "")


def _print_turn(turn: TurnRecord) -> None:
    console.out.print()
    for role, text in _inputs(turn):
        console.out.print(f"[bold cyan]{escape(role)}[/] {escape(text)}")
    if turn.reply:
        console.out.print(f"[bold]reply[/] {escape(turn.reply.strip())}")
    ending = FinishReason.Name(turn.reason).removeprefix("FINISH_REASON_").lower() if turn.reason else "running"
    usage = turn.usage
    figures = f"{ending} · {usage.generated_tokens} tokens · position {usage.position:,}"
    cut = " · cut at 1 MiB" if turn.shortened else ""
    recalled = f" · {usage.recalled_tokens} recalled" if usage.recalled_tokens else ""
    console.out.print(f"[dim]{figures}{recalled}{cut} · {escape(turn.turn_id)}[/]")


def _inputs(turn: TurnRecord) -> list[tuple[str, str]]:
    match turn.WhichOneof("input"):
        case "messages":
            return [(message.role, message.content) for message in turn.messages.messages]
        case "token_ids":
            return [("tokens", " ".join(map(str, turn.token_ids.ids)))]
        case _:
            return [("user", turn.text)]
