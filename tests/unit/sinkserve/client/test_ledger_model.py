"""What a client sends and accepts, on streams that may end at any event: the ledger against a model of the server."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from sinkserve.client.ledger import Ledger, Link
from sinkserve.client.turn import Turn
from sinkserve.runtime.v1 import conversation_service_pb2 as pb

WORDS = ("one ", "two ", "three ")


@dataclass
class Server:
    """The rules of the stream: an event log that may forget, turns that run once, whatever streams come and go.

    They leave room: a server may tell a stream of turns that it has not named, and repeat more than it has to.
    """

    tells_of_all: bool = False
    repeats_always: bool = False
    log: list[pb.ConverseResponse] = field(default_factory=list)
    ran: list[str] = field(default_factory=list)
    records: dict[str, list[pb.ConverseResponse]] = field(default_factory=dict)
    sequence: int = 100
    kept_from: int = 100
    named: set[str] = field(default_factory=set)
    hears_all: bool = False
    out: list[pb.ConverseResponse] = field(default_factory=list)

    def take(self, request: pb.ConverseRequest) -> bool:
        """Answer a request into `out`; False: EVENTS_EXPIRED."""
        match request.WhichOneof("message"):
            case "open":
                return self._open(request.open)
            case "turn":
                self._turn(request.turn)
        return True

    def _open(self, opening: pb.Open) -> bool:
        self.named, self.hears_all, self.out = set(), opening.HasField("after_sequence"), []
        if self.hears_all and opening.after_sequence < self.kept_from:
            return False
        opened = pb.Opened(session=pb.Session(name="sessions/a"), resumed=bool(self.log))
        missed = [item for item in self.log if self.hears_all and item.sequence > opening.after_sequence]
        self.out = [pb.ConverseResponse(opened=opened), *missed]
        return True

    def _turn(self, turn: pb.Turn) -> None:
        known = turn.turn_id in self.records
        if known and (self.repeats_always or not (self.hears_all or turn.turn_id in self.named)):
            self.out += self.records[turn.turn_id]
        self.named.add(turn.turn_id)
        if not known:
            self.ran.append(turn.turn_id)
            self.records[turn.turn_id] = []

    def run(self) -> None:
        """Tell the next event of the oldest turn that has not ended."""
        for turn_id, told in self.records.items():
            events: list[dict[str, Any]] = [
                {"started": pb.TurnStarted(turn_id=turn_id, attempt=1)},
                *({"delta": pb.Delta(turn_id=turn_id, text=word, token_ids=[1])} for word in WORDS),
                {"finished": pb.TurnFinished(turn_id=turn_id, usage=pb.Usage(generated_tokens=len(WORDS)))},
            ]
            if len(told) < len(events):
                self.sequence += 1
                told.append(pb.ConverseResponse(sequence=self.sequence, **events[len(told)]))
                self.log.append(told[-1])
                if self.tells_of_all or self.hears_all or turn_id in self.named:
                    self.out.append(told[-1])
                return

    def forget(self) -> None:
        self.kept_from = self.sequence
        self.log.clear()


steps = st.lists(
    st.sampled_from(("say", "write", "run", "run", "read", "read", "lose", "forget")), min_size=20, max_size=200
)


class Client:
    """A ledger and its present stream, to a server."""

    def __init__(self, server: Server) -> None:
        self.ledger, self.server, self.link = Ledger(pb.NewSession(engine="demo")), server, Link()
        self.turns: list[Turn] = []

    def do(self, step: str) -> None:
        match step:
            case "say":
                self.turns.append(Turn(pb.Turn(turn_id=f"t{len(self.turns)}", text="hi"), lambda: None))
                self.ledger.add(self.turns[-1])
            case "write":
                self.write()
            case "run":
                self.server.run()
            case "read" if self.link.open_sent and self.server.out:
                self.ledger.receive(self.server.out.pop(0), self.link)
            case "lose":
                self.link = Link()
            case "forget":
                self.server.forget()

    def write(self) -> None:
        request = self.ledger.next_request(self.link)
        if request is not None and not self.server.take(request):
            self.ledger.forget_sequence()
            self.link = Link()


COMES_AGAIN_AND_IS_LOST_AGAIN = (
    "say write read write run lose write run read read write read lose".split()  # noqa: SIM905 - reads as a script
)
"""A piece of a turn is heard before its start, and the stream that brings both again breaks between them."""


@example(COMES_AGAIN_AND_IS_LOST_AGAIN, Server(tells_of_all=True))
@given(steps, st.builds(Server, tells_of_all=st.booleans(), repeats_always=st.booleans()))
def test_every_turn_runs_once_and_reads_whole_whatever_is_lost_and_forgotten(script: list[str], server: Server) -> None:
    client = Client(server)
    for step in script:
        client.do(step)
    for _ in range(8 * (len(client.turns) + 2)):
        for step in ("write", "run", "read", "read"):
            client.do(step)
    assert client.server.ran == [turn.id for turn in client.turns]
    for turn in client.turns:
        assert turn.text == "".join(WORDS)
        assert turn.token_ids == (1,) * len(WORDS)
    assert not client.ledger.unfinished
    assert not client.link.turns_sent
