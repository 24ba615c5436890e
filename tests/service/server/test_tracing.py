"""Turns and builds are spans at a collector, under the span of their caller, and what changes things is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import pytest
import structlog
from structlog.testing import capture_logs

from builder_service.service import start_builder
from builder_service.settings import BuilderSettings
from common.settings import SharedSettings
from sinkserve.builder.v1.builder_service_pb2 import SubmitBuildRequest
from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from sinkserve.runtime.v1.conversation_service_pb2_grpc import ConversationServiceStub
from tests.servers.balancers import Envoy
from tests.servers.otlp_collector import Collector, attributes, collecting
from tests.service.builder.builder import FAILED, BuilderClient
from tests.service.runtime.runtime import Bench, eventually

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
FROM = (("traceparent", f"00-{TRACE}-{CALLER}-01"), ("x-request-id", "request-7"))
ANYWHERE = "127.0.0.1:0"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as found:
        yield found


@pytest.fixture
async def bench(tmp_path: Path, collector: Collector) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path, {}, shared_settings={"traces_endpoint": collector.endpoint})
    bench.publish()
    await bench.start()
    yield bench
    await bench.stop()


async def run_turn(stub: Any) -> str:
    """A session with one turn; returns its name."""
    new = pb.NewSession(engine="demo", session_id="a")
    made = await stub.CreateSession(pb.CreateSessionRequest(new_session=new), metadata=FROM)
    turn = pb.Turn(turn_id="one", text="hello", generation=pb.GenerationOptions(max_new_tokens=3, ignore_eos=True))
    async for _ in stub.RunTurn(pb.RunTurnRequest(session=made.session.name, turn=turn), metadata=FROM):
        pass
    return str(made.session.name)


async def test_a_turn_is_one_tree_under_the_span_of_its_caller(bench: Bench, collector: Collector) -> None:
    name = await run_turn(bench.stub)
    await bench.stop()  # what is left is sent
    turn = collector.wait_for("chat demo@1")
    assert (turn.trace_id.hex(), turn.parent_span_id.hex()) == (TRACE, CALLER)
    assert [span.name for span in collector.children(turn)] == ["queue", "prefill", "decode"]
    ends = [(span.start_time_unix_nano, span.end_time_unix_nano) for span in collector.children(turn)]
    assert ends == sorted(ends)
    assert all(turn.start_time_unix_nano <= begin <= end <= turn.end_time_unix_nano for begin, end in ends)
    found = attributes(turn)
    assert found["gen_ai.conversation.id"] == name
    assert found["gen_ai.conversation.compacted"] is False
    assert found["gen_ai.usage.output_tokens"] == 3
    assert found["gen_ai.response.finish_reasons"] == ["length"]
    assert "hello" not in str(turn)


@pytest.fixture
async def envoy(tmp_path_factory: pytest.TempPathFactory, bench: Bench, collector: Collector) -> AsyncIterator[Envoy]:
    """Before the bench, and with spans of its own."""
    port = urlsplit(collector.endpoint).port
    put_in = {"address: collector, port_value: 4317": f"address: 127.0.0.1, port_value: {port}"}
    envoy = Envoy(tmp_path_factory.mktemp("envoy"), {"traces": put_in})
    try:
        await envoy.serve([bench.handle.address])
        await eventually(partial(_is_healthy, envoy))
        yield envoy
    finally:
        envoy.stop()


async def test_a_turn_through_envoy_is_one_tree(bench: Bench, envoy: Envoy, collector: Collector) -> None:
    async with grpc.aio.insecure_channel(envoy.address) as channel:
        stub: Any = ConversationServiceStub(channel)
        name = await run_turn(stub)
        for _ in range(3):  # Envoy sends five spans at once, or what it has every five seconds
            await stub.GetSession(pb.GetSessionRequest(name=name))
    await bench.stop()
    turn = collector.wait_for("chat demo@1")
    hop = await asyncio.to_thread(collector.wait_for, "", turn.parent_span_id)
    assert hop.parent_span_id.hex() == CALLER
    assert {span.trace_id.hex() for span in (hop, turn, *collector.children(turn))} == {TRACE}
    assert [span.name for span in collector.children(turn)] == ["queue", "prefill", "decode"]


async def _is_healthy(envoy: Envoy) -> bool:
    return "healthy" in (await envoy.health()).values()


async def test_a_conversation_that_has_lost_tokens_is_compacted(bench: Bench, collector: Collector) -> None:
    new = pb.NewSession(engine="demo", session_id="a")
    made = await bench.stub.CreateSession(pb.CreateSessionRequest(new_session=new))
    for turn_id, text, recalled in (("old", "Ann has 17", ()), ("long", "x" * 60, ()), ("asks", "who?", ("old",))):
        generation, recall = pb.GenerationOptions(max_new_tokens=2, ignore_eos=True), pb.Recall(turn_ids=recalled)
        turn = pb.Turn(turn_id=turn_id, text=text, generation=generation, recall=recall if recalled else None)
        async for event in bench.stub.RunTurn(pb.RunTurnRequest(session=made.session.name, turn=turn)):
            usage = event.finished.usage
    await bench.stop()
    collector.wait_for("chat demo@1")
    found = next(span for span in collector.spans if attributes(span).get("sinkserve.turn.id") == "asks")
    assert attributes(found)["gen_ai.conversation.compacted"] is True
    assert attributes(found)["sinkserve.turn.recalled_tokens"] == usage.recalled_tokens > 0
    assert not found.parent_span_id  # nobody said that it had a span


async def test_an_attempt_at_a_build_is_a_span_with_its_end(tmp_path: Path, collector: Collector) -> None:
    settings = BuilderSettings(listen=ANYWHERE, metrics_listen="none", source_roots=(str(tmp_path),))
    shared = SharedSettings(home=tmp_path / "home", traces_endpoint=collector.endpoint)
    handle = await start_builder(settings, shared)
    async with grpc.aio.insecure_channel(handle.address) as channel:
        client = BuilderClient.on(channel, tmp_path / "nothing")
        asked = await client.builds.SubmitBuild(SubmitBuildRequest(spec=client.spec()), metadata=FROM)
        ended = await client.ended(asked.build)
        assert ended.state == FAILED
    await handle.stop()
    build = collector.wait_for("build ")
    assert (build.trace_id.hex(), build.parent_span_id.hex()) == (TRACE, CALLER)
    assert attributes(build)["sinkserve.build.id"] == ended.name
    assert build.status.message == "SOURCE_NOT_FOUND"


async def test_each_turn_is_told_with_the_request_that_brought_it(bench: Bench) -> None:
    new = pb.NewSession(engine="demo", session_id="a")
    made = await bench.stub.CreateSession(pb.CreateSessionRequest(new_session=new))

    def call(name: str) -> AsyncIterator[pb.ConverseResponse]:
        turn = pb.Turn(turn_id=name, text="hello", generation=pb.GenerationOptions(max_new_tokens=50, ignore_eos=True))
        request = pb.RunTurnRequest(session=made.session.name, turn=turn)
        return aiter(bench.stub.RunTurn(request, metadata=(("x-request-id", f"request of {name}"),)))

    with capture_logs(processors=[structlog.contextvars.merge_contextvars]) as logged:
        one = call("one")
        await anext(one)
        async for _ in call("two"):  # takes the session over, and waits for the turn that runs
            pass
        await bench.stop()
    told = {entry["turn"]: entry["request"] for entry in logged if entry["event"] == "turn.ended"}
    assert told == {name: f"request of {name}" for name in ("one", "two")}


async def test_what_changes_something_is_audited_with_its_request(bench: Bench) -> None:
    with capture_logs(processors=[]) as logged:
        name = await run_turn(bench.stub)
        await bench.stub.GetSession(pb.GetSessionRequest(name=name))
        await bench.stub.DeleteSession(pb.DeleteSessionRequest(name=name), metadata=FROM)
        await bench.stop()
    audit = [
        (entry["method"].partition(".")[2], entry.get("resource"), entry["code"])
        for entry in logged
        if entry["event"] == "audit"
    ]
    assert audit == [("CreateSession", None, "OK"), ("DeleteSession", name, "OK")]
    ended = [entry for entry in logged if entry["event"] == "call.ended"]
    assert [entry["method"].partition(".")[2] for entry in ended] == [
        "CreateSession",
        "RunTurn",
        "GetSession",
        "DeleteSession",
    ]
    assert {entry["principal"] for entry in ended} == {"local"}
    assert all(entry["sent"] > 0 for entry in ended[:3])
