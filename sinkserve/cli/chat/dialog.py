"""A dialog: lines in, turns out, until the lines end.

Lines are read while the event loop rests, so that Ctrl-C means what it should in both states: at the prompt it
ends the chat when pressed twice; during a reply it cancels the turn, and pressed again it ends the chat.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Iterator
from typing import cast

from sinkserve.cli.chat.form import describe_form, with_form
from sinkserve.cli.chat.sampling import changed, describe
from sinkserve.cli.chat.view import HELP, ChatView, Printer
from sinkserve.cli.terminal.failures import explain
from sinkserve.client import Client, Conversation, FinishReason, GenerationOptions, SinkServeError, Turn
from sinkserve.runtime.v1.conversation_service_pb2 import TurnRecord

_KEPT_OF_A_TURN = 100  # characters


class Dialog:
    """One conversation and the options of its turns."""

    def __init__(self, client: Client, conversation: Conversation, generation: GenerationOptions) -> None:
        self.conversation = conversation
        self._client = client
        self._generation = generation
        self._words: dict[str, str] = {}  # how what was said here begins, by turn
        self._called: Turn | None = None  # its calls have no results yet

    @property
    def sampling(self) -> str:
        """How replies are sampled now."""
        return describe(self.conversation.opened.generation, self._generation)

    def talk(self, runner: asyncio.Runner, view: ChatView) -> None:
        """Talk with the person at the terminal until they leave, or the conversation is over."""
        for line in _lines(view):
            if line in {"/quit", "/exit", "/q"}:
                return
            if line:
                with contextlib.suppress(SinkServeError):
                    runner.run(self._command(line, view) if line.startswith("/") else self.say(line, view))
                    self._answer_calls(runner, view)
            if self.conversation.error is not None:
                return

    async def say(self, text: str, view: ChatView) -> None:
        """One turn, printed as it comes. Raises SinkServeError when it failed, after saying so."""
        await self._run(self.conversation.say(text, **self._generation), text, view)

    def _answer_calls(self, runner: asyncio.Runner, view: ChatView) -> None:
        """Ask the person what the tools answer that are called; nothing is run here."""
        while (turn := self._called) is not None:
            self._called = None
            results = view.ask_results(turn.tool_calls)
            if results is None:
                return
            free = cast("GenerationOptions", {**self._generation, "tool_choice": "auto"})
            answered = self.conversation.answer(turn, results, **free)
            runner.run(self._run(answered, " ".join(results.values()), view))

    async def _run(self, asked: Awaitable[Turn], text: str, view: ChatView) -> None:
        try:
            turn = await asked
            self._words[turn.id] = text[:_KEPT_OF_A_TURN]
            printer = Printer(view, turn)
            try:
                await printer.print()
            except asyncio.CancelledError:
                _forget_cancellation()
                await turn.cancel()
                await printer.print()
            finally:
                printer.end()
            finished = await turn.wait()
            view.figures(finished, self._words)
            view.calls(finished.tool_calls)
            self._called = turn if finished.reason is FinishReason.TOOL_CALLS else None
        except SinkServeError as error:
            explain(error)
            raise

    async def _command(self, line: str, view: ChatView) -> None:
        command, _, argument = line.partition(" ")
        again = ""
        try:
            match command:
                case "/again":
                    again = await self._take_back(view)
                case "/stats" | "/window":
                    await self._describe(command, view)
                case "/fork":
                    await self._fork(view)
                case "/rewind":
                    await self._rewind(argument.strip() or "1", view)
                case "/pin" | "/unpin":
                    await self._pin(argument.strip() or "1", view, pinned=command == "/pin")
                case "/set" | "/form":
                    view.say(self._set(command, argument))
                case "/help":
                    view.say(HELP)
                case other:
                    view.say(f"there is no {other}; /help says what there is")
        except SinkServeError as error:
            explain(error)
        if again:
            await self.say(again, view)

    @property
    def _name(self) -> str:
        return self.conversation.session.name

    async def _describe(self, command: str, view: ChatView) -> None:
        session = await self._client.sessions.get(self._name)
        if command == "/stats":
            view.stats(session)
        else:
            view.window(session, self._words)

    def _set(self, command: str, argument: str) -> str:
        """Change an option of the turns to come, or their form; returns what to say of it."""
        try:
            if command == "/form":
                self._generation = with_form(self._generation, argument)
            elif argument.strip():
                self._generation = changed(self._generation, argument)
        except ValueError as error:
            return str(error)
        return self.sampling if command == "/set" else f"replies: {describe_form(self._generation)}"

    async def _fork(self, view: ChatView) -> None:
        before, fork = self._name, await self._client.sessions.fork(self._name)
        await self._go_on(fork.name)
        view.say(f"this is {fork.name} now; {before} stays as it is")

    async def _rewind(self, count: str, view: ChatView) -> None:
        if not count.isdecimal() or count == "0":
            view.say(f"/rewind takes how many turns to drop, such as 2, and not {count}")
            return
        turns = [turn async for turn in self._client.sessions.turns(self._name)]
        if int(count) > len(turns):
            view.say(f"there are {len(turns)} turns, and none was dropped")
            return
        await self._drop_from(turns[-int(count)])
        dropped = f"{count} {'turn' if count == '1' else 'turns'} dropped"
        view.say(f"{dropped} · position {self.conversation.session.position:,}")

    async def _pin(self, place: str, view: ChatView, *, pinned: bool) -> None:
        """Pin the turn at a place from the end, or let it go."""
        turns = [turn async for turn in self._client.sessions.turns(self._name)]
        if not place.isdecimal() or not 0 < int(place) <= len(turns):
            view.say(f"there are {len(turns)} turns; 1 is the last, and there is no {place}")
            return
        change = self._client.sessions.pin if pinned else self._client.sessions.unpin
        session = await change(self._name, turns[-int(place)].turn_id)
        count = len(session.pinned_turns)
        view.say(f"{count} {'turn is' if count == 1 else 'turns are'} pinned")

    async def _take_back(self, view: ChatView) -> str:
        """Drop the last turn; returns what was said in it."""
        turns = [turn async for turn in self._client.sessions.turns(self._name)]
        if not turns or turns[-1].WhichOneof("input") != "text" or turns[-1].shortened:
            view.say("there is nothing that could be asked again")
            return ""
        await self._drop_from(turns[-1])
        return turns[-1].text

    async def _drop_from(self, turn: TurnRecord) -> None:
        """Remove a turn and those after it from the conversation."""
        name = self._name
        await self.conversation.close()
        try:
            await self._client.sessions.rewind(name, turn.turn_id, drop_turn=True)
        finally:
            await self._go_on(name)

    async def _go_on(self, session: str) -> None:
        """Switch to another session, or reopen the same one."""
        await self.conversation.close()
        self.conversation = self._client.conversation(session=session)
        await self.conversation.open()


def _lines(view: ChatView) -> Iterator[str]:
    """Lines of the person, stripped; ends with Ctrl-D, or Ctrl-C twice in a row."""
    interrupted = False
    while True:
        try:
            line = view.ask().strip()
        except EOFError:
            return
        except KeyboardInterrupt:
            if interrupted:
                return
            interrupted = True
            view.say("\nCtrl-C again, or Ctrl-D, leaves")
            continue
        interrupted = False
        yield line


def _forget_cancellation() -> None:
    """Ctrl-C was for the turn, not for this task."""
    task = asyncio.current_task()
    assert task is not None
    task.uncancel()
