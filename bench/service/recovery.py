"""How soon a conversation goes on after SIGKILL of the replica that has it, and what the time goes into.

    python bench/service/recovery.py [--kills 20] [--replicas 3] [--balancer envoy] [--history 200] [--unreaped]

Replicas behind a balancer with its file of `deploy/`, on PostgreSQL where `initdb` is installed, else on SQLite. One
plain client of gRPC holds one session, at rest or in a turn by turns, and opens it again at once when its stream ends.
A replica that was killed is started again once it has been measured. Times are counted from the signal, in seconds:
the stream's end is seen, the session is `opened`, the next event of a turn (at rest: of a new turn), its next token.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
import time
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import grpc

from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from sinkserve.runtime.v1 import conversation_service_pb2_grpc as pb_grpc
from tests.environment import isolate
from tests.servers.balancers import Envoy, Nginx
from tests.servers.databases import new_database_url, postgres_url
from tests.service.replicas.behind_a_balancer import ENGINE, Replicas, build

SETTLE_S = 2.5
"""So long a new replica is left alone: its balancer asks how it is once a second, and may have thought it dead."""
WAITS_S = (0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0)
"""Before a client's tries, as docs/use/clients.md says."""


@dataclass
class Recovery:
    """Seconds from the signal until each."""

    in_turn: bool
    ended: float = 0.0
    opened: float = 0.0
    event: float = 0.0
    token: float = 0.0
    tries: int = 0
    status: str = ""

    @property
    def next_event(self) -> float:
        """What the client waits for: at rest `opened`, in a turn its next event."""
        return self.event if self.in_turn else self.opened


class Talker:
    """A plain client of one session, as docs/use/clients.md has it."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub: pb_grpc.ConversationServiceAsyncStub = pb_grpc.ConversationServiceStub(channel)
        self.session_id = str(uuid.uuid4())
        self._call: Any = None
        self._sequence = 0

    async def begin(self) -> None:
        """Make the session."""
        await self._open(pb.Open(new_session=pb.NewSession(engine=ENGINE, session_id=self.session_id)))

    async def resume(self) -> None:
        """Open it again; raises AioRpcError, after which it asks for no more than the server can have."""
        opening = pb.Open(session=f"sessions/{self.session_id}", after_sequence=self._sequence)
        try:
            await self._open(opening)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.OUT_OF_RANGE:
                raise
            opening.ClearField("after_sequence")
            await self._open(opening)

    async def say(self, turn: pb.Turn) -> None:
        """Send a turn, perhaps once more."""
        await self._call.write(pb.ConverseRequest(turn=turn))

    async def next(self) -> pb.ConverseResponse:
        """The next event; raises AioRpcError when the stream is lost."""
        event: Any = await self._call.read()
        if event is grpc.aio.EOF:
            raise await _error_of(self._call)
        assert isinstance(event, pb.ConverseResponse)
        self._sequence = max(self._sequence, event.sequence)
        return event

    async def until(self, *kinds: str) -> None:
        """Read up to an event of one of these kinds."""
        while (await self.next()).WhichOneof("event") not in kinds:
            pass

    async def leave(self) -> None:
        """Delete the session."""
        await self._call.write(pb.ConverseRequest(close=pb.Close(delete_session=True)))
        while await self._call.read() is not grpc.aio.EOF:
            pass

    async def _open(self, opening: pb.Open) -> None:
        self._call = self._stub.Converse(metadata=(("sinkserve-session-id", self.session_id),))
        await self._call.write(pb.ConverseRequest(open=opening))
        assert (await self.next()).WhichOneof("event") == "opened"


async def _error_of(call: Any) -> grpc.aio.AioRpcError:  # noqa: ANN401 - gRPC's call has no public type
    return grpc.aio.AioRpcError(await call.code(), grpc.aio.Metadata(), grpc.aio.Metadata(), await call.details())


class Bench:
    """Kills one replica after the other."""

    def __init__(self, replicas: Replicas, history: int, *, unreaped: bool) -> None:
        self._replicas = replicas
        self._history = history
        self._unreaped = unreaped

    async def kill(self, *, in_turn: bool) -> Recovery:
        """One session, and the death of its replica."""
        async with grpc.aio.insecure_channel(self._replicas.balancer.address) as channel:
            talker = Talker(channel)
            await talker.begin()
            await talker.say(_turn(self._history))
            await talker.until("finished")
            found = await self._lose(talker, in_turn=in_turn)
            await talker.leave()
        print(found, file=sys.stderr)
        await self._replicas.start(self._replicas.spare[0])
        await asyncio.sleep(SETTLE_S)
        return found

    async def _lose(self, talker: Talker, *, in_turn: bool) -> Recovery:
        place = (await self._replicas.places())[talker.session_id]
        turn = _turn(2000)
        if in_turn:
            await talker.say(turn)
            await talker.until("delta")
        watch = Recovery(in_turn)
        began = time.perf_counter()
        address = self._replicas.address_of(place.process)
        os.kill(place.process, signal.SIGKILL)
        ending = None if self._unreaped else asyncio.create_task(self._replicas.end(address, signal.SIGKILL))
        try:
            while True:
                await talker.next()
        except grpc.aio.AioRpcError as error:
            watch.status = error.code().name
        watch.ended = time.perf_counter() - began
        await _resume(talker, watch)
        watch.opened = time.perf_counter() - began
        await talker.say(turn)
        await talker.until("started", "delta")
        watch.event = time.perf_counter() - began
        await talker.until("delta")
        watch.token = time.perf_counter() - began
        await (ending or self._replicas.end(address, signal.SIGKILL))
        return watch


async def _resume(talker: Talker, watch: Recovery) -> None:
    for wait_s in WAITS_S:
        await asyncio.sleep(wait_s)
        watch.tries += 1
        try:
            return await talker.resume()
        except grpc.aio.AioRpcError as error:
            watch.status += f", {error.code().name} {error.details()}"
    raise AssertionError(f"the session did not come back: {watch}")


def _turn(tokens: int) -> pb.Turn:
    how = pb.GenerationOptions(temperature=0, max_new_tokens=tokens, ignore_eos=True)
    return pb.Turn(turn_id=str(uuid.uuid4()), text="hello", generation=how)


async def measure(arguments: argparse.Namespace, replicas: Replicas) -> list[Recovery]:
    """At rest and in a turn, by turns."""
    try:
        await replicas.serve(arguments.replicas)
        await asyncio.sleep(SETTLE_S)
        bench = Bench(replicas, arguments.history, unreaped=arguments.unreaped)
        return [await bench.kill(in_turn=bool(number % 2)) for number in range(2 * arguments.kills)]
    finally:
        replicas.stop()


def show(found: list[Recovery]) -> None:
    """Medians, and the longest."""
    for in_turn in (False, True):
        of = [each for each in found if each.in_turn is in_turn]
        print(f"{'in a turn' if in_turn else 'at rest'}, {len(of)} kills: median (longest), s")
        for phase in ("ended", "opened", "event", "token", "next_event"):
            times = [getattr(each, phase) for each in of]
            print(f"  {phase:10} {median(times):6.3f} ({max(times):.3f})")
        print(f"  tries {max(each.tries for each in of)}, {sorted({each.status for each in of})}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="of each kind")
    parser.add_argument("--replicas", type=int, default=3, choices=(2, 3))
    parser.add_argument("--balancer", choices=("envoy", "nginx"), default="envoy")
    parser.add_argument("--history", type=int, default=200, help="tokens that are said before")
    parser.add_argument("--unreaped", action="store_true", help="its parent learns of its death when it was measured")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    isolate()  # services of one machine would want the same addresses
    kind = "postgresql" if postgres_url() else "sqlite"
    with tempfile.TemporaryDirectory(prefix="sinkserve-recovery-") as scratch:
        folder = Path(scratch)
        with new_database_url(kind, folder) as database_url:
            replicas = Replicas(folder, database_url, (Envoy if arguments.balancer == "envoy" else Nginx)(folder))
            build(replicas.shared)
            found = asyncio.run(measure(arguments, replicas))
    if arguments.json:
        sys.stdout.write(json.dumps([asdict(each) for each in found]) + "\n")
    else:
        show(found)


if __name__ == "__main__":
    main()
