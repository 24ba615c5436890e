"""Every order of acts that clients and operators can think of, legal or not, on the world and on the model."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from common.errors import Reason
from runtime_service.api.requests import Cancel, Close, Open, Request
from runtime_service.api.stream import ConversationStream
from runtime_service.domain.session import NewSession
from runtime_service.domain.turn import TurnInput, TurnRequest
from runtime_service.turns.intake import MOST_WAITING
from tests.service.session_model.acts import Acts
from tests.service.session_model.drawn import FORKS, IDS, VARIANTS, anywhere, forks, ids, index
from tests.service.session_model.line import Line
from tests.service.session_model.replica import PATIENCE_S, PRINCIPAL
from tests.service.session_model.world import World

T = TypeVar("T")


def speaking(act: Callable[..., None]) -> Callable[..., None]:
    """Of a rule that needs a stream: does nothing without one."""

    @wraps(act)
    def act_if_any(self: SessionsMachine, **drawn: Any) -> None:
        if self.acts.lines():
            act(self, **drawn)

    return act_if_any


def existing(act: Callable[..., None]) -> Callable[..., None]:
    """Of a rule that needs a session: does nothing without one. (What is drawn must not depend on times.)"""

    @wraps(act)
    def act_if_any(self: SessionsMachine, **drawn: Any) -> None:
        if self.acts.model:
            act(self, **drawn)

    return act_if_any


class SessionsMachine(RuleBasedStateMachine):
    """What the world does, and what the model expects of it."""

    template: Path

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = Path(tempfile.mkdtemp())

    def run(self, act: Coroutine[Any, Any, T]) -> T:
        async def bounded() -> T:
            async with asyncio.timeout(PATIENCE_S):
                return await act

        return self.runner.run(bounded())

    @initialize(variants=st.tuples(*(st.sampled_from(VARIANTS) for _ in IDS[:2])))
    def start(self, variants: tuple[NewSession, ...]) -> None:
        """Two sessions, which have talked."""
        self.acts = Acts(self.run(World.start(self.template, self.folder / "home")))
        for number, variant in enumerate(variants):
            self.create(there=bool(number), session_id=IDS[number], variant=variant)
            self.say(at=number, kind="text", most=4)

    def teardown(self) -> None:
        try:
            if hasattr(self, "acts"):
                try:
                    self.run(self.acts.end_all())
                finally:
                    self.run(self.acts.world.stop())
        finally:
            self.runner.close()
            shutil.rmtree(self.folder, ignore_errors=True)

    # Streams

    @rule(there=anywhere, session_id=ids, variant=st.sampled_from(VARIANTS))
    def create(self, there: bool, session_id: str, variant: NewSession) -> None:
        self.run(self.acts.create(self.acts.replica(there), replace(variant, session_id=session_id)))

    @rule(there=anywhere, at=index, after=st.sampled_from((None, "heard", 0)))
    @existing
    def open(self, there: bool, at: int, after: str | int | None) -> None:
        self.run(self.acts.open(self.acts.replica(there), self.acts.some(at), after))

    @rule(at=index)
    @speaking
    def open_twice(self, at: int) -> None:
        line = self.acts.line(at)
        self.acts.lost(line)
        refused = self.run(line.ask(Open(f"sessions/{line.session_id}")))
        assert refused is Reason.STREAM_ALREADY_OPEN

    @rule(
        there=anywhere,
        request=st.sampled_from(
            (Cancel("t"), Close(), TurnRequest("t", TurnInput(text="t")), Open("sessions/none", 0))
        ),
    )
    def speak_of_nothing(self, there: bool, request: Request) -> None:
        handle = self.acts.replica(there).handle
        line = Line(self.acts.replica(there), "none", ConversationStream(handle.sessions, PRINCIPAL))
        expected = Reason.SESSION_NOT_FOUND if isinstance(request, Open) else Reason.STREAM_NOT_OPEN
        assert self.run(line.ask(request)) is expected

    @rule(at=index)
    @speaking
    def half_close(self, at: int) -> None:
        line = self.acts.line(at)
        line.half_closed = True
        self.run(_now(line.conversation.no_more))

    @rule(at=index, delete=st.booleans())
    @speaking
    def close(self, at: int, delete: bool) -> None:
        line = self.acts.line(at)
        if delete:
            self.acts.model.pop(line.session_id, None)
        self.run(self.acts.close(line, delete))

    @rule(at=index)
    @speaking
    def lose(self, at: int) -> None:
        line = self.acts.line(at)
        self.acts.lost(line)
        self.run(_now(line.conversation.lost))

    @rule(at=index)
    @speaking
    def stop_reading(self, at: int) -> None:
        self.acts.line(at).reading.clear()

    @rule()
    def read(self) -> None:
        self.acts.read()

    # Turns

    @rule(at=index, kind=st.sampled_from(("text", "tokens", "no_reply")), most=st.sampled_from((1, 4, 30)))
    @speaking
    def turn(self, at: int, kind: str, most: int) -> None:
        self.run(self.acts.turn(self.acts.line(at), self.acts.request(kind, most)))

    @rule(at=index, kind=st.sampled_from(("text", "tokens")), most=st.sampled_from((4, 30)))
    @speaking
    def say(self, at: int, kind: str, most: int) -> None:
        """A turn, to its end."""
        self.run(self.acts.turn(self.acts.line(at), self.acts.request(kind, most)))
        self.settle()

    @rule(at=index)
    @speaking
    def more_turns_than_may_wait(self, at: int) -> None:
        line = self.acts.line(at)
        line.reading.clear()
        for most in (30, *(1 for _ in range(MOST_WAITING + 1))):
            if not line.over:
                self.run(self.acts.turn(line, self.acts.request("tokens", most)))

    @rule(at=index, which=index, same=st.booleans())
    @speaking
    def same_id_again(self, at: int, which: int, same: bool) -> None:
        line = self.acts.line(at)
        session = self.acts.model.get(line.session_id)
        known = [*session.turns, *session.gone][-6:] if session else []
        if known:
            request = known[which % len(known)].request
            body = request if same else replace(request, input=TurnInput(text="another"))
            self.run(self.acts.turn(line, body))

    @rule(at=index, steps=st.integers(0, 8))
    @speaking
    def turn_and_lose(self, at: int, steps: int) -> None:
        """The stream is gone while its turn is being accepted."""
        self.run(self.acts.turn_and_lose(self.acts.line(at), self.acts.request("tokens", 30), steps))

    @rule(there=anywhere, at=index)
    @existing
    def run_turn(self, there: bool, at: int) -> None:
        """A turn without a stream."""
        self.run(self.acts.run_turn(self.acts.replica(there), self.acts.some(at), self.acts.request("tokens", 4)))

    @rule(at=index, which=index, discard=st.booleans())
    @speaking
    def cancel(self, at: int, which: int, discard: bool) -> None:
        line = self.acts.line(at)
        turn_id = self.acts.cancelled(line.replica, line.session_id, which, discard=discard)
        self.run(line.ask(Cancel(turn_id, discard)))

    @rule(there=anywhere, at=index, which=index, discard=st.booleans())
    @existing
    def cancel_without_a_stream(self, there: bool, at: int, which: int, discard: bool) -> None:
        session = self.acts.some(at)
        turn_id = self.acts.cancelled(self.acts.replica(there), session.session_id, which, discard=discard)
        act = self.acts.replica(there).handle.sessions.cancel
        self.run(act(PRINCIPAL, session.session_id, turn_id, discard=discard))

    # Branches

    @rule(there=anywhere, at=index, which=st.none() | index, new_id=forks)
    @existing
    def fork(self, there: bool, at: int, which: int | None, new_id: str) -> None:
        session = self.acts.some(at)
        turn_id = "" if which is None else self.acts.turn_id(session, which)
        self.run(self.acts.fork(self.acts.replica(there), session, turn_id, new_id))

    @rule(there=anywhere, at=index, which=index, drop=st.booleans())
    @existing
    def rewind(self, there: bool, at: int, which: int, drop: bool) -> None:
        session = self.acts.some(at)
        self.run(self.acts.rewind(self.acts.replica(there), session, self.acts.turn_id(session, which), drop=drop))

    @rule(there=anywhere, session_id=ids)
    def delete(self, there: bool, session_id: str) -> None:
        self.run(self.acts.delete(self.acts.replica(there), session_id))

    @rule(at=index)
    @existing
    def expire(self, at: int) -> None:
        self.run(self.acts.expire(self.acts.some(at)))

    # Servers

    @rule(there=anywhere, what=st.sampled_from(("drain", "crash", "pause")))
    def server(self, there: bool, what: str) -> None:
        self.run(getattr(self.acts, what)(self.acts.replica(there)))

    @rule(there=anywhere, at=index, wakes=st.booleans())
    @existing
    def take_from_who_is_thought_dead(self, there: bool, at: int, wakes: bool) -> None:
        """And back again."""
        session, dead = self.acts.some(at), self.acts.replica(there)
        self.run(self.acts.open(dead, session, None))
        if not dead.paused:
            self.run(self.acts.pause(dead))
        self.run(self.acts.open(self.acts.replica(not there), session, None))
        if wakes:
            self.run(self.acts.pause(dead))
        self.run(self.acts.open(dead, session, None))

    @rule(at=index)
    @existing
    def lose_cache(self, at: int) -> None:
        self.run(self.acts.world.lose_cache(self.acts.some(at).session_id))

    @rule()
    def settle(self) -> None:
        """Let everything that runs come to its end."""
        self.run(self.acts.settle())

    # What holds after every act

    @invariant()
    def histories_are_right(self) -> None:
        if hasattr(self, "acts"):
            self.run(self.acts.check({*IDS, *FORKS}))


async def _now(act: Callable[[], None]) -> None:
    act()
