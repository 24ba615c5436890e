"""Turns and builds are spans at a collector, under the span of their caller, and what changes things is told."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import pytest
import structlog
from structlog.testing import capture_logs

from builder_service.service import start_builder
from builder_service.settings import BuilderSettings
from common.settings import SharedSettings
from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from tests.servers.otlp_collector import Collector, attributes, collecting
from tests.service.builder.builder import FAILED, BuilderClient
from tests.service.runtime.runtime import Bench

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


async def run_turn(bench: Bench, text: str = "hello", turn_id: str = "one") -> str:
    """A session with one turn; returns its name."""
    new = pb.NewSession(engine="demo", session_id="a")
    made = await bench.stub.CreateSession(pb.CreateSessionRequest(new_session=new), metadata=FROM)
    turn = pb.Turn(turn_id=turn_id, text=text, generation=pb.GenerationOptions(max_new_tokens=3, ignore_eos=True))
    async for _ in bench.stub.RunTurn(pb.RunTurnRequest(session=made.session.name, turn=turn), metadata=FROM):
        pass
    return str(made.session.name)


async def test_a_turn_is_one_tree_under_the_span_of_its_caller(bench: Bench, collector: Collector) -> None:
    name = await run_turn(bench)
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


async def test_a_conversation_that_has_lost_tokens_is_compacted(bench: Bench, collector: Collector) -> None:
    new = pb.NewSession(engine="demo", session_id="a")
    made = await bench.stub.CreateSession(pb.CreateSessionRequest(new_session=new))
    turn = pb.Turn(text="x" * 50, generation=pb.GenerationOptions(max_new_tokens=40, ignore_eos=True))
    async for _ in bench.stub.RunTurn(pb.RunTurnRequest(session=made.session.name, turn=turn)):
        pass
    await bench.stop()
    found = collector.wait_for("chat demo@1")
    assert attributes(found)["gen_ai.conversation.compacted"] is True
    assert not found.parent_span_id  # nobody said that it had a span


async def test_an_attempt_at_a_build_is_a_span_with_its_end(tmp_path: Path, collector: Collector) -> None:
    settings = BuilderSettings(listen=ANYWHERE, metrics_listen="none", source_roots=(str(tmp_path),))
    shared = SharedSettings(home=tmp_path / "home", traces_endpoint=collector.endpoint)
    handle = await start_builder(settings, shared)
    async with grpc.aio.insecure_channel(handle.address) as channel:
        client = BuilderClient.on(channel, tmp_path / "nothing")
        ended = await client.ended(await client.submit())
        assert ended.state == FAILED
    await handle.stop()
    build = collector.wait_for("build ")
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
        name = await run_turn(bench)
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
