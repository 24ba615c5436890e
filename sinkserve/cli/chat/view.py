"""What a chat looks like: the reply as it comes, and a quiet line of figures after it. Plain text without a terminal.

Knows turns, not streams; prints, and decides nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from rich.markup import escape

from sinkserve.cli.sessions import facts
from sinkserve.cli.terminal import console
from sinkserve.cli.terminal.window_picture import picture
from sinkserve.client import Finished, FinishReason, ToolCall, Turn, WindowNotice
from sinkserve.runtime.v1.conversation_service_pb2 import Opened, Session

HELP = """\
/stats        how long the conversation is, and what of it the engine still sees
/window       a picture of it: what was forgotten, what the engine still sees
/again        drop the last reply, and ask for another
/rewind [N]   drop the last turn, or the last N, for ever
/pin [N]      keep the last turn, or the Nth last, in sight for ever; /unpin [N] lets it go
/set NAME X   sample otherwise from now on: /set temperature 0.7; without X the default holds again
/form KIND X  replies have this form: /form json_schema FILE; alone, any text will do again
/fork         go on in a copy of the conversation; this one stays as it is
/help         this
/quit         leave; the session stays (or Ctrl-D)
Ctrl-C        ends a reply early; what was said of it stays in the conversation"""

_PROMPT = "\001\033[1;36m\002you\001\033[0m\002 "  # \001 and \002 tell readline what has no width
_MOST_NAMED, _LONGEST_WORDS = 3, 50
_ENDINGS = {
    FinishReason.LENGTH: "stopped at the limit of tokens",
    FinishReason.CANCELLED: "cancelled",
    FinishReason.CONTEXT_FULL: "the cache is full and this session does not evict",
}


class ChatView:
    """`lively`: stdout is a terminal. Otherwise stdout gets only replies and line ends."""

    def __init__(self, *, lively: bool) -> None:
        self.lively = lively

    def greet(self, opened: Opened, sampling: str) -> None:
        """Say what was opened, and how its replies are sampled."""
        if not self.lively:
            return
        session = opened.session
        options = session.options
        keeps = f" · {options.sink_tokens} sinks + {options.window_tokens} tokens" if options.window_tokens else ""
        pinned = " · system prompt pinned" if opened.system_prompt_pinned and not opened.tools_pinned else ""
        back = f" · position {session.position:,}" if opened.resumed else ""
        count = len(session.tool_names)
        tools = f" · {count} {'tool' if count == 1 else 'tools'}" if count else ""
        tools += " pinned" if opened.tools_pinned else ""
        console.out.print(f"[bold]{escape(session.engine)}[/][dim]{keeps}{pinned}{tools}{back} · {sampling} · /help[/]")

    def ask(self) -> str:
        """A line from the person; raises EOFError at the end, KeyboardInterrupt at Ctrl-C."""
        console.out.print()
        return input("you " if console.out.color_system is None else _PROMPT)

    def figures(self, finished: Finished, words: Mapping[str, str]) -> None:
        """Print what a reply took, and always what was forgotten or cut; `words` begin turns, by id."""
        if finished.notice is not None:
            self._forgotten(finished.notice, words)
        if finished.format_matched is False:
            self._warn("the reply was cut, and need not match its form")
        if not self.lively:
            return
        usage, ending = finished.usage, _ENDINGS.get(finished.reason)
        speed = f"{finished.tokens_per_second:.1f} tok/s" if finished.tokens_per_second else ""
        evicted = f"{usage.evicted_tokens:,} evicted" if usage.evicted_tokens else ""
        parts = (
            ending or "",
            f"{usage.generated_tokens} tokens",
            speed,
            f"first after {finished.timing.time_to_first_token_s:.2f} s",
            f"position {usage.position:,}",
            evicted,
            f"{usage.recalled_tokens:,} recalled" if usage.recalled_tokens else "",
        )
        console.out.print(f"[dim]{' · '.join(part for part in parts if part)}[/]")

    def calls(self, calls: Sequence[ToolCall]) -> None:
        """Print what a reply calls: from a pipe as JSON, one a line."""
        for call in calls:
            cut = " (cut)" if call.incomplete else ""
            if self.lively:
                console.out.print(f"[cyan]calls {escape(call.name)}[/] {escape(call.arguments)}{cut}")
            else:
                console.write(json.dumps(asdict(call), ensure_ascii=False) + "\n")

    def ask_results(self, calls: Sequence[ToolCall]) -> dict[str, str] | None:
        """What the person says that the calls answer, by their ids; None: they do not say."""
        try:
            return {call.id: input(f"{call.name} answers ") for call in calls}
        except (EOFError, KeyboardInterrupt):
            self.say("\nthe calls have no results; what you say next goes on without them")
            return None

    def stats(self, session: Session) -> None:
        """Print the session as it is now."""
        console.print_facts(facts(session))

    def window(self, session: Session, words: Mapping[str, str]) -> None:
        """Draw the session's window as it is now."""
        oldest = called(session.oldest_visible_turn, words)
        for line in picture(session, console.out.width, escape(oldest)):
            console.out.print(line)

    def _forgotten(self, notice: WindowNotice, words: Mapping[str, str]) -> None:
        count = notice.end_position - notice.start_position
        tokens = f"{count:,} {'token' if count == 1 else 'tokens'}"
        turns = f"the beginning of {notice.turns:,} {'turn' if notice.turns == 1 else 'turns'}"
        named = ", ".join(called(turn_id, words) for turn_id in notice.turn_ids[:_MOST_NAMED])
        more = ", ..." if notice.turns > _MOST_NAMED else ""
        parts = f"forgotten: {tokens}" + (f", with {turns}: {named}{more}" if notice.turns else "")
        self._warn(parts)

    def _warn(self, text: str) -> None:
        where = console.out if self.lively else console.err
        where.print(f"[yellow]{escape(text)}[/]")

    def print_resume_command(self, resume_command: str) -> None:
        """Print the command that resumes the session."""
        if self.lively:
            console.out.print(f"\n[dim]to go on:[/] {escape(resume_command)}")

    def say(self, text: str) -> None:
        """Print a remark of the command line itself."""
        console.out.print(f"[dim]{escape(text)}[/]")


def called(turn_id: str, words: Mapping[str, str]) -> str:
    """A turn by what was said in it, if that is known here, else by its id."""
    text = " ".join(words.get(turn_id, "").split())
    if not text:
        return turn_id
    return f'"{text}"' if len(text) <= _LONGEST_WORDS else f'"{text[: _LONGEST_WORDS - 3]}..."'


class Printer:
    """Prints one reply, and can be asked to go on where it was interrupted."""

    def __init__(self, view: ChatView, turn: Turn) -> None:
        self._view = view
        self._turn = turn
        self._attempt = 1
        self._shown = 0
        self._ends_line = True
        self._thinking = False

    async def print(self) -> None:
        """Print deltas until the turn ends; raises what the turn raises."""
        index = 0
        async for delta in self._turn:
            if delta.attempt != self._attempt:
                self._restart(delta.attempt)
                index = 0
            index += 1
            if index > self._shown:
                self._shown = index
                self._think(delta.reasoning)
                if delta.text:
                    self._write(delta.text)

    def end(self) -> None:
        """End the line that the reply is on."""
        if not self._ends_line or self._thinking:
            self._write("\n")

    def _restart(self, attempt: int) -> None:
        self.end()
        self._attempt, self._shown = attempt, 0
        self._view.say("the server was lost and starts this reply again")

    def _think(self, text: str) -> None:
        """Reasoning is quiet, and at a terminal only."""
        if text and self._view.lively:
            self._thinking = True
            console.out.print(f"[dim]{escape(text)}[/]", end="", highlight=False)

    def _write(self, text: str) -> None:
        if self._thinking and text:
            self._thinking = False
            text = f"\n{text}" if text != "\n" else text
        self._ends_line = text.endswith("\n")
        console.write(text)
