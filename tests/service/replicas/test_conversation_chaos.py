"""Streams, turns, cancels and restarts in random order: afterwards every turn is in its history once, and right."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field

import pytest
from sqlalchemy import select

from common.errors import SinkServeError
from runtime_service.api.requests import Cancel, Open
from runtime_service.api.stream import ConversationStream
from runtime_service.decoding.delta import Delta
from runtime_service.domain.options import RequestedOptions
from runtime_service.domain.session import NewSession, OnDisconnect, Session, SessionOptions
from runtime_service.domain.turn import FinishReason, Turn, TurnInput, TurnRequest
from runtime_service.storage.rows import turn_from_row, unpack
from runtime_service.storage.tables import turns
from runtime_service.turns.events import Event, TurnFinished, TurnRejected, TurnStarted
from tests.fakes.engine import expected_greedy
from tests.nightly import LONG, one_in
from tests.service.runtime.runtime import VOCABULARY, Bench, eventually

SESSIONS = 6  # more than slots


@dataclass
class Client:
    """One client of one session: at most one stream, and what it was told."""

    session_id: str
    conversation: ConversationStream | None = None
    listener: asyncio.Task[None] | None = None
    last: int | None = None
    asked: list[TurnRequest] = field(default_factory=list)
    told: list[Event] = field(default_factory=list)


class Chaos:
    """Does random things to a runtime, as clients and as its operator."""

    def __init__(self, bench: Bench, seed: int) -> None:
        self.bench = bench
        self.dice = random.Random(seed)
        self.clients = [Client(f"s{index % SESSIONS}") for index in range(SESSIONS + 2)]
        self.count = 0

    async def act(self) -> None:
        client = self.dice.choice(self.clients)
        if client.conversation is None or client.conversation.outbox.closed:
            await self._open(client)
            return
        weights = {self._ask: 8, self._repeat: 3, self._cancel: 3, self._lose: 2, self._end: 1}
        act = self.dice.choices(list(weights), list(weights.values()))[0]
        await act(client, client.conversation)

    async def _open(self, client: Client) -> None:
        conversation = ConversationStream(self.bench.handle.sessions, "local")
        goes_on = client.session_id in {"s0", "s1"}
        on_disconnect = OnDisconnect.CONTINUE if goes_on else OnDisconnect.CANCEL
        options = SessionOptions(on_disconnect=on_disconnect, window_tokens=30)
        target = NewSession("demo", client.session_id, options=options)
        try:
            await conversation.receive(Open(target, client.last if self.dice.random() < 0.5 else None))
        except SinkServeError as error:
            assert error.reason in {"EVENTS_EXPIRED", "CAPACITY_EXHAUSTED"}, error  # noqa: PT017 - most opens succeed
            client.last = None if error.reason == "EVENTS_EXPIRED" else client.last
            return
        client.conversation = conversation
        client.listener = asyncio.create_task(self._listen(client, conversation))

    async def _listen(self, client: Client, conversation: ConversationStream) -> None:
        try:
            while (events := await conversation.outbox.take(30.0)) is not None:
                client.told += events
                client.last = max([client.last or 0, *(event.sequence for event in events)]) or None
                await asyncio.sleep(self.dice.random() / 100)
        except SinkServeError as error:
            assert error.reason in {"SESSION_TAKEN_OVER", "DRAINING"}, error  # noqa: PT017 - a good end is none

    async def _ask(self, client: Client, conversation: ConversationStream) -> None:
        self.count += 1
        tokens = tuple(self.dice.randrange(5, 400) for _ in range(self.dice.randrange(1, 25)))
        given = TurnInput(token_ids=tokens) if self.dice.random() < 0.5 else TurnInput(text=f"number {self.count}")
        options = RequestedOptions(
            max_new_tokens=self.dice.randrange(1, 60), ignore_eos=True, speculated_tokens=self.dice.choice((0, 15))
        )
        request = TurnRequest(f"t{self.count}", given, options, no_reply=self.dice.random() < 0.1)
        client.asked.append(request)
        await conversation.receive(request)

    async def _repeat(self, client: Client, conversation: ConversationStream) -> None:
        if client.asked:
            await conversation.receive(self.dice.choice(client.asked[-5:]))

    async def _cancel(self, client: Client, conversation: ConversationStream) -> None:
        if client.asked:
            turn_id = self.dice.choice(client.asked[-3:]).turn_id
            await conversation.receive(Cancel(turn_id, discard=self.dice.random() < 0.5))

    async def _lose(self, client: Client, conversation: ConversationStream) -> None:
        conversation.lost()

    async def _end(self, client: Client, conversation: ConversationStream) -> None:
        conversation.no_more()

    async def settle(self) -> None:
        """Open every session, so that what was interrupted runs again, and wait until nothing runs."""
        for client in self.clients:
            while client.conversation is None or client.conversation.outbox.closed:
                await self._open(client)
        engine = self.bench.handle.engines.loaded[0]

        async def nothing_runs() -> bool:
            return not engine.turns

        await eventually(nothing_runs)
        await self.bench.handle.shared.background.wait()

    async def leave(self) -> None:
        for client in self.clients:
            if client.conversation is not None:
                client.conversation.lost()
            if client.listener is not None:
                await client.listener


def kept(bench: Bench, session: Session) -> list[tuple[Turn, list[int]]]:
    """Turns of a session and the tokens that each added."""
    with bench.handle.database.read() as connection:
        query = select(turns).where(turns.c.session_key == session.key).order_by(turns.c.number)
        return [(turn_from_row(row), unpack(row["tokens"])) for row in connection.execute(query).mappings()]


def check_history(session: Session, found: list[tuple[Turn, list[int]]]) -> None:
    """Every turn continues the one before, with the tokens that a session alone would have generated."""
    history = list(session.opening)
    for turn, tokens in found:
        assert turn.result is not None
        usage = turn.result.usage
        assert turn.result.reason is not FinishReason.ERROR, turn.result.error
        if tokens and usage.generated_tokens:
            history += tokens[: usage.prompt_tokens]
            generated = tokens[usage.prompt_tokens :][: usage.generated_tokens]
            assert generated == expected_greedy(history, session.window, len(generated), VOCABULARY)
            history += tokens[usage.prompt_tokens :]
        else:
            history += tokens
        assert usage.position == len(history)
    assert session.position == len(history)
    assert session.turns == len(found)


def check_told(client: Client, results: dict[str, Turn]) -> None:
    """What a client heard of a turn that ended is what was kept of it."""
    assert not [event for event in client.told if isinstance(event.body, TurnRejected) and event.sequence]
    for turn_id, turn in results.items():
        events = {event.sequence: event.body for event in client.told if event.turn_id == turn_id}
        ends = [body for body in events.values() if isinstance(body, TurnFinished)]
        assert len(ends) <= 1
        starts = [sequence for sequence, body in events.items() if isinstance(body, TurnStarted)]
        if not ends or not starts or turn.result is None or turn.result.reason is FinishReason.CANCELLED:
            continue
        assert ends[0].result.usage == turn.result.usage
        bodies = [body for sequence, body in sorted(events.items()) if sequence >= max(starts)]
        tokens = [token for body in bodies if isinstance(body, Delta) for token in body.token_ids]
        assert len(tokens) >= len(turn.result.token_ids) or max(starts) != turn.result.started_sequence


@pytest.mark.parametrize("seed", one_in(2, range(2), LONG))
async def test_whatever_happens_every_turn_is_in_its_history_once_and_right(bench: Bench, seed: int) -> None:
    await bench.stop()
    bench.settings |= {"drain_grace_s": 0.0, "max_sessions": SESSIONS - 1, "parked_bytes": 700, "kept_events": 64}
    await bench.start()
    chaos = Chaos(bench, seed)
    for index in range(140):
        if index % 50 == 49:
            await bench.stop()
            await bench.start()
        await chaos.act()
        if chaos.dice.random() < 0.3:
            await asyncio.sleep(chaos.dice.random() / 50)
    await chaos.leave()
    bench.settings["max_sessions"] = SESSIONS
    await bench.stop()
    await bench.start()
    await chaos.settle()
    for session_id in {client.session_id for client in chaos.clients}:
        session = bench.handle.shared.repository.get("local", session_id)
        found = kept(bench, session)
        check_history(session, found)
        assert max(Counter(turn.turn_id for turn, _ in found).values(), default=0) <= 1
        for client in chaos.clients:
            if client.session_id == session_id:
                check_told(client, {turn.turn_id: turn for turn, _ in found})
    await chaos.leave()
