"""The crowd of `hostile.py`, in a process of its own.

    python bench/service/hostile_crowd.py ADDRESS HOME

Says so when the readers have what they do not read; ends when its input does.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc

from builder_service.service import start_builder
from builder_service.settings import BuilderSettings
from common.settings import SharedSettings
from common.spec.bounds import LONGEST_TEMPLATE
from sinkserve.builder.v1 import builder_service_pb2 as builder_pb
from sinkserve.builder.v1 import builder_service_pb2_grpc as builder_grpc
from sinkserve.engine.v1 import engine_pb2
from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from sinkserve.runtime.v1 import conversation_service_pb2_grpc as pb_grpc

CROWD = ("8 absent readers", "4 that trickle", "turns of 4 MB", "a flood of sessions", "a flood of builds")
Converse = grpc.aio.StreamStreamCall[pb.ConverseRequest, pb.ConverseResponse]
READY = "the crowd is there"
NARROW = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1024))
HUGE = 4_100_000  # token ids of one byte each: nearly the largest message
SETTLE_S = 5.0
BREATH_S = 0.1


async def reader(address: str, pause_s: float | None) -> None:
    """Ask for much, and read a message every `pause_s`; None: none."""
    async with grpc.aio.insecure_channel(address, options=NARROW) as channel:
        while True:
            call = pb_grpc.ConversationServiceStub(channel).Converse()
            await call.write(pb.ConverseRequest(open=pb.Open(new_session=pb.NewSession(engine="idle"))))
            await call.read()
            options = pb.GenerationOptions(max_new_tokens=16_000, ignore_eos=True, logprobs=20)
            await call.write(pb.ConverseRequest(turn=pb.Turn(text="go", generation=options)))
            if pause_s is None:
                await asyncio.Event().wait()
            assert pause_s is not None
            try:
                await trickle(call, pause_s)
            except grpc.aio.AioRpcError:  # it was too slow
                await asyncio.sleep(pause_s)


async def trickle(call: Converse, pause_s: float) -> None:
    """Read a message every so often, to the end."""
    event: object = None
    while event is not grpc.aio.EOF:
        event = await call.read()
        await asyncio.sleep(pause_s)


async def shouter(address: str) -> None:
    """Turns that are too long."""
    async with grpc.aio.insecure_channel(address) as channel:
        call = pb_grpc.ConversationServiceStub(channel).Converse()
        await call.write(pb.ConverseRequest(open=pb.Open(new_session=pb.NewSession(engine="idle"))))
        await call.read()
        huge = pb.ConverseRequest(turn=pb.Turn(token_ids=pb.TokenIds(ids=[5] * HUGE)))
        while True:
            await call.write(huge)
            answer = await call.read()
            assert isinstance(answer, pb.ConverseResponse)
            assert answer.HasField("rejected"), answer
            await asyncio.sleep(BREATH_S)


async def opener(address: str) -> None:
    """Sessions of which nothing is kept, until no more are taken, and on."""
    options = pb.SessionOptions(durability=pb.SessionOptions.DURABILITY_NONE)
    request = pb.CreateSessionRequest(new_session=pb.NewSession(engine="idle", options=options))
    async with grpc.aio.insecure_channel(address) as channel:
        stub = pb_grpc.ConversationServiceStub(channel)
        await until_refused(lambda: stub.CreateSession(request))


async def submitter(address: str) -> None:
    """Builds with long templates of a checkpoint that is not there."""
    spec = engine_pb2.ModelSpec(
        name="flood", source=engine_pb2.Source(uri="/nothing/here"), chat_template="x" * LONGEST_TEMPLATE
    )
    async with grpc.aio.insecure_channel(address) as channel:
        stub = builder_grpc.BuilderServiceStub(channel)
        await until_refused(lambda: stub.SubmitBuild(builder_pb.SubmitBuildRequest(spec=spec)))


async def until_refused(ask: Callable[[], Awaitable[object]]) -> None:
    """Ask again and again, ten times a second."""
    while True:
        try:
            await ask()
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise
        await asyncio.sleep(BREATH_S)


async def main(address: str, home: Path) -> None:
    nowhere = {"admin_listen": "", "metrics_listen": ""}
    settings = BuilderSettings.load({"listen": "127.0.0.1:0", **nowhere, "stop_grace_s": 0.0})
    builder = await start_builder(settings, SharedSettings.load({"home": home}))
    crowd = [
        *(reader(address, None) for _ in range(8)),
        *(reader(address, 0.5) for _ in range(4)),
        shouter(address),
        opener(address),
        submitter(builder.address),
    ]
    members = [asyncio.create_task(member) for member in crowd]
    await asyncio.sleep(SETTLE_S)
    sys.stdout.write(READY + "\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    for member in members:
        if member.done():
            member.result()  # raises what it ended with: nobody leaves this crowd by itself
        member.cancel()
    await asyncio.gather(*members, return_exceptions=True)
    await builder.stop()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
