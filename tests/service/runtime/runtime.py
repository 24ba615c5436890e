"""A runtime over the fake engine on a real socket, and a client that speaks bare protobuf to it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from common.catalog.catalog import Catalog
from common.db.schema import open_database
from common.engine.engine import Feed
from common.settings import SharedSettings
from common.spec.manifest import TurnTemplate as Turns
from common.spec.published_engine import PublishedEngine
from common.store.blob_store import open_store
from common.window import Geometry
from runtime_service.decoding.text import Text
from runtime_service.domain.session import Session
from runtime_service.engines.loader import Loaded
from runtime_service.recompute.token_generator import LoadedGenerator
from runtime_service.service import RuntimeHandle, start_runtime
from runtime_service.settings import RuntimeSettings
from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from sinkserve.runtime.v1 import conversation_service_pb2_grpc as pb_grpc
from tests.fakes.engine import FakeEngine
from tests.samples.vocabularies import byte_level
from tests.samples.whole_manifests import TEMPLATE, make_manifest

GEOMETRY = Geometry(sinks=4, window=64, chunk=8, slots=4)
VOCABULARY = 450
D = TypeVar("D", bound=Message)
STEP_S = 0.001
"""What a step takes: a real engine leaves the processor to others meanwhile, and an endless turn outlasts them."""
ENDLESS = {"max_new_tokens": 5000, "ignore_eos": True}
Step = Callable[[tuple[Feed, ...]], None]


@dataclass
class Bench:
    """A running runtime, its fake engines in order of loading, and how to reach it."""

    home: Path
    settings: dict[str, Any]
    database_url: str = ""
    geometry: Geometry = GEOMETRY
    poison: frozenset[int] = frozenset()
    before_step: Step | None = None
    shared_settings: dict[str, Any] = field(default_factory=dict)
    engines: list[FakeEngine] = field(default_factory=list)
    loads: threading.Event = field(default_factory=threading.Event)
    may_load: threading.Event = field(default_factory=threading.Event)
    runtime: RuntimeHandle | None = None
    channel: grpc.aio.Channel | None = None
    admin: grpc.aio.Channel | None = None

    def __post_init__(self) -> None:
        self.may_load.set()

    async def start(self) -> None:
        settings = RuntimeSettings.load({"listen": "127.0.0.1:0", "engines": ("demo",), **self.settings})
        self.runtime = await start_runtime(settings, self.shared, self._load)
        self.channel = grpc.aio.insecure_channel(self.runtime.address)
        self.admin = grpc.aio.insecure_channel(self.runtime.admin_address)

    async def stop(self) -> None:
        if self.runtime is not None:
            await self.runtime.stop()
        for channel in (self.channel, self.admin):
            if channel is not None:
                await channel.close()
        self.channel = self.admin = self.runtime = None

    async def restart(self, **settings: Any) -> None:
        """A new runtime with other settings, over the same home."""
        await self.stop()
        self.engines.clear()
        self.settings |= settings
        await self.start()

    @property
    def shared(self) -> SharedSettings:
        places = {"home": self.home, "database_url": self.database_url}
        return SharedSettings.load({**places, **self.shared_settings})

    @property
    def stub(self) -> pb_grpc.ConversationServiceAsyncStub:
        assert self.channel is not None
        return pb_grpc.ConversationServiceStub(self.channel)

    @property
    def handle(self) -> RuntimeHandle:
        assert self.runtime is not None
        return self.runtime

    def publish(
        self, name: str = "demo", *, text: bool | Turns = True, owner: str = "local", ends: int = 1
    ) -> PublishedEngine:
        """Put an engine without files into the catalog; `ends` is how many end tokens it has."""
        template = TEMPLATE if text is True else text or None
        end_ids = tuple(range(1, 1 + ends))
        manifest = make_manifest(
            self.geometry, vocabulary=VOCABULARY, name=name, template=template, end_token_ids=end_ids, layers=2
        )
        with closing(open_database(self.shared.database)) as database:
            return Catalog(database, open_store(self.shared.store)).publish(manifest, "test", owner=owner)

    def stream(self, **kwargs: Any) -> Stream:
        return Stream(self.stub.Converse(**kwargs))

    async def opened(self, **new_session: Any) -> Stream:
        """A stream on a new session."""
        stream = self.stream()
        await stream.open(**new_session)
        return stream

    async def resumed(self, session: str, after_sequence: int | None = None) -> Stream:
        """A stream on a session that exists."""
        stream = self.stream()
        await stream.resume(session, after_sequence)
        return stream

    async def said(self, *texts: str) -> list[int]:
        """Tokens that a fresh session answers to the last of `texts`."""
        stream = await self.opened()
        for text in texts:
            await stream.turn(text=text)
            events = await stream.until("finished")
        await stream.half_close()
        await stream.rest()
        return tokens_of(events)

    def _load(self, published: PublishedEngine) -> Loaded | LoadedGenerator:
        def step(feeds: tuple[Feed, ...]) -> None:
            time.sleep(STEP_S)
            if self.before_step is not None:
                self.before_step(feeds)

        self.loads.set()
        self.may_load.wait()
        engine = FakeEngine(self.geometry, vocabulary=VOCABULARY, poison=self.poison, before_step=step)
        self.engines.append(engine)
        tokenizer = byte_level() if published.manifest.text else None
        return Loaded(engine, Text(tokenizer, published.manifest))


class Stream:
    """One Converse call; `events` are all that came."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.events: list[pb.ConverseResponse] = []
        self.session = ""

    async def send(self, **message: Any) -> None:
        await self.call.write(pb.ConverseRequest(**message))

    async def open(self, engine: str = "demo", **new_session: Any) -> pb.Opened:
        await self.send(open=pb.Open(new_session=pb.NewSession(engine=engine, **new_session)))
        return await self._opened()

    async def resume(self, session: str, after_sequence: int | None = None) -> pb.Opened:
        await self.send(open=pb.Open(session=session, after_sequence=after_sequence))
        return await self._opened()

    async def _opened(self) -> pb.Opened:
        event = await self.next()
        assert event.WhichOneof("event") == "opened", event
        self.session = event.opened.session.name
        return event.opened

    async def turn(self, turn_id: str = "", *, generation: dict[str, Any] | None = None, **turn: Any) -> None:
        options = pb.GenerationOptions(**{"max_new_tokens": 6, **(generation or {})})
        if not {"text", "messages", "token_ids"} & set(turn):
            turn["text"] = "hello"
        await self.send(turn=pb.Turn(turn_id=turn_id, generation=options, **turn))

    async def next(self) -> pb.ConverseResponse:
        """The next event; raises AioRpcError, or EOFError at a good end."""
        event: Any = await asyncio.wait_for(self.call.read(), 20)
        if event is grpc.aio.EOF:
            raise EOFError
        assert isinstance(event, pb.ConverseResponse)
        self.events.append(event)
        return event

    async def until(self, kind: str) -> list[pb.ConverseResponse]:
        """Events up to the first of `kind`, itself included."""
        events = [await self.next()]
        while events[-1].WhichOneof("event") != kind:
            events.append(await self.next())
        return events

    async def said(self, turn_id: str, text: str | None = None, **turn: Any) -> list[int]:
        """Tokens of the reply to a turn."""
        await self.turn(turn_id, **turn if text is None else {"text": text, **turn})
        return tokens_of(await self.until("finished"))

    async def finished(self) -> pb.TurnFinished:
        return (await self.until("finished"))[-1].finished

    async def rejected(self) -> pb.TurnRejected:
        return (await self.until("rejected"))[-1].rejected

    async def half_close(self) -> None:
        await self.call.done_writing()

    async def rest(self) -> list[pb.ConverseResponse]:
        """Everything up to a good end."""
        events = []
        try:
            while True:
                events.append(await self.next())
        except EOFError:
            return events

    async def first_delta(self) -> pb.Delta:
        return (await self.until("delta"))[-1].delta

    async def failure(self) -> tuple[grpc.StatusCode, str]:
        """Code and reason that the stream ends with."""
        try:
            await self.rest()
        except grpc.aio.AioRpcError as error:
            return error.code(), reason_of(error)
        raise AssertionError("the stream ended well")


def reaper_passes(bench: Bench) -> asyncio.Queue[int]:
    """How many sessions it finds expired, for every pass of the reaper from now on."""
    passes: asyncio.Queue[int] = asyncio.Queue()
    loop, claims = asyncio.get_running_loop(), bench.handle.shared.claims
    expired = claims.expired

    def noted() -> list[Session]:
        found = expired()
        loop.call_soon_threadsafe(passes.put_nowait, len(found))
        return found

    claims.expired = noted  # type: ignore[method-assign]
    return passes


async def eventually(true: Callable[[], Awaitable[bool]]) -> None:
    """Return as soon as `true` is; a test that waits in vain runs into its timeout."""
    while not await true():  # noqa: ASYNC110 - what is waited for is on the other side of a socket
        await asyncio.sleep(0.01)


def reason_of(error: grpc.aio.AioRpcError) -> str:
    status = rpc_status.from_call(error)
    return info(status).reason if status is not None else ""


async def refusal(call: Any) -> tuple[grpc.StatusCode, str]:
    """Code and reason that a call ends with."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code(), reason_of(error)
    raise AssertionError("the call ended well")


def info(status: status_pb2.Status) -> error_details_pb2.ErrorInfo:
    found = detail(status, error_details_pb2.ErrorInfo())
    assert found is not None, status
    return found


def violations(status: status_pb2.Status) -> list[str]:
    """Fields that are wrong."""
    found = detail(status, error_details_pb2.BadRequest())
    return [violation.field for violation in found.field_violations] if found else []


def detail(status: status_pb2.Status, into: D) -> D | None:
    return next((into for packed in status.details if packed.Unpack(into)), None)


def text_of(events: list[pb.ConverseResponse], turn_id: str | None = None) -> str:
    return "".join(event.delta.text for event in events if turn_id is None or event.delta.turn_id == turn_id)


def tokens_of(events: list[pb.ConverseResponse]) -> list[int]:
    return [token for event in events for token in event.delta.token_ids]


def kinds(events: list[pb.ConverseResponse]) -> list[str]:
    return [str(event.WhichOneof("event")) for event in events]
