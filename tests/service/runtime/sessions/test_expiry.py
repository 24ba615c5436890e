"""Sessions that nobody spoke to for long are deleted, whoever served them."""

from __future__ import annotations

from functools import partial

from google.protobuf.duration_pb2 import Duration

from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from tests.service.runtime.runtime import Bench, eventually, reaper_passes


async def no_sessions(bench: Bench) -> bool:
    return not (await bench.stub.ListSessions(pb.ListSessionsRequest())).sessions


async def test_a_session_is_deleted_when_nobody_spoke_to_it_for_long(bench: Bench) -> None:
    await bench.restart(reap_s=0.02)
    soon = Duration()
    soon.FromMilliseconds(10)
    stream = await bench.opened(options=pb.SessionOptions(delete_after_idle_duration=soon))
    passes = reaper_passes(bench)
    assert [await passes.get() for _ in range(3)] == [0, 0, 0]
    session = (await bench.stub.GetSession(pb.GetSessionRequest(name=stream.session))).session  # a stream holds it
    assert not session.HasField("expire_time")
    await stream.half_close()
    await stream.rest()
    await eventually(partial(no_sessions, bench))
    assert not bench.handle.sessions.live


async def test_a_session_expires_although_its_server_died(bench: Bench) -> None:
    soon = Duration()
    soon.FromMilliseconds(50)
    await bench.opened(options=pb.SessionOptions(delete_after_idle_duration=soon))
    await bench.restart(reap_s=0.02)
    await eventually(partial(no_sessions, bench))
