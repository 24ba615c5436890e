"""A client that reads is judged by how much it takes in a period, whenever it takes it."""

from __future__ import annotations

from runtime_service.api.outbox import Outbox
from runtime_service.api.reader_pace import ReaderPace
from runtime_service.turns.events import Event, Heartbeat

MOST = 4
LONG_S = 3600.0


class Reader:
    """A stream of which every event that is taken is sent at once."""

    def __init__(self) -> None:
        self.outbox = Outbox(MOST, lambda full: self.pace.note_full() if full else None)
        self.given_up = 0
        self.pace = ReaderPace(self.outbox, LONG_S, self._give_up)

    def _give_up(self) -> None:
        self.given_up += 1

    def produce(self, count: int = MOST) -> None:
        self.outbox.put(*(Event(0, Heartbeat()) for _ in range(count)))

    async def ask(self) -> None:
        await self.outbox.take(LONG_S)


async def test_one_that_takes_nothing_is_given_up() -> None:
    reader = Reader()
    reader.produce()
    reader.pace.judge()
    assert reader.given_up == 1


async def test_one_that_takes_less_than_waited_is_given_up_however_lately_it_did() -> None:
    reader = Reader()
    reader.produce(1)
    await reader.ask()  # it is being sent
    reader.produce()
    await reader.ask()  # the first was sent, and the others are not yet
    reader.produce()
    reader.pace.judge()
    assert reader.given_up == 1


async def test_one_that_takes_what_waited_goes_on_and_is_judged_again() -> None:
    reader = Reader()
    reader.produce()
    await reader.ask()
    reader.produce()
    await reader.ask()  # all that waited at first was sent; as many wait again
    reader.produce()
    reader.pace.judge()
    assert reader.given_up == 0
    reader.pace.judge()
    assert reader.given_up == 1


async def test_one_that_has_caught_up_is_not_judged() -> None:
    reader = Reader()
    reader.produce()
    await reader.ask()
    reader.produce(1)
    await reader.ask()
    reader.pace.judge()
    assert reader.given_up == 0
    reader.pace.stop()
