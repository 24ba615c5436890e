"""A dialog: lines in, turns out, until the lines end.

Lines are read while the event loop rests, so that Ctrl-C means what it should in both states: at the prompt it
leaves when pressed twice; while a reply comes it cancels the turn, and pressed again it leaves.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from sinkserve.cli.chat_view import HELP, ChatView, Printer
from sinkserve.cli.failures import explain
from sinkserve.client import Client, Conversation, GenerationOptions, SinkServeError


class Dialog:
    """One conversation and the options of its turns."""

    def __init__(self, client: Client, conversation: Conversation, generation: GenerationOptions) -> None:
        self._client = client
        self._conversation = conversation
        self._generation = generation

    def talk(self, runner: asyncio.Runner, view: ChatView) -> None:
        """Talk with the person at the terminal until they leave, or the conversation is over."""
        for line in _lines(view):
            if line.startswith("/"):
                if line in {"/quit", "/exit", "/q"}:
                    return
                runner.run(self._command(line, view))
            elif line:
                with contextlib.suppress(SinkServeError):
                    runner.run(self.say(line, view))
            if self._conversation.error is not None:
                return

    async def say(self, text: str, view: ChatView) -> None:
        """One turn, printed as it comes. Raises SinkServeError when it failed, after saying so."""
        try:
            turn = await self._conversation.say(text, **self._generation)
            printer = Printer(view, turn)
            try:
                await printer.print()
            except asyncio.CancelledError:
                _forget_cancellation()
                await turn.cancel()
                await printer.print()
            finally:
                printer.end()
            view.figures(await turn.wait())
        except SinkServeError as error:
            explain(error)
            raise

    async def _command(self, line: str, view: ChatView) -> None:
        match line.split(maxsplit=1)[0]:
            case "/stats":
                try:
                    view.stats(await self._client.sessions.get(self._conversation.session.name))
                except SinkServeError as error:
                    explain(error)
            case "/help":
                view.say(HELP)
            case other:
                view.say(f"there is no {other}; /help says what there is")


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
