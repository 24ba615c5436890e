"""Sessions are found by labels and engine, and changed while they live."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from grpc_status import rpc_status

from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from tests.service.runtime.runtime import Bench, eventually, info

IDLE = "options.delete_after_idle_duration"
HOUR = pb.SessionOptions(delete_after_idle_duration=Duration(seconds=3600))


async def changed(bench: Bench, name: str, *paths: str, **values: Any) -> pb.Session:
    """A session after a change."""
    session = pb.Session(name=name, **values)
    request = pb.UpdateSessionRequest(session=session, update_mask=FieldMask(paths=paths))
    return (await bench.stub.UpdateSession(request)).session


async def listed(bench: Bench, **only: Any) -> list[str]:
    """Names of the sessions that a filter lets through, by pages of one."""
    names: list[str] = []
    token = ""
    while True:
        page = await bench.stub.ListSessions(pb.ListSessionsRequest(page_size=1, page_token=token, **only))
        names += [session.name for session in page.sessions]
        if not (token := page.next_page_token):
            return names


async def test_sessions_are_listed_by_labels_and_engine(bench: Bench) -> None:
    for session_id, labels in (("a", {"team": "x"}), ("b", {"team": "x", "tone": "calm"}), ("c", {})):
        await bench.opened(session_id=session_id, labels=labels)
    assert await listed(bench, labels={"team": "x"}) == ["sessions/b", "sessions/a"]
    assert await listed(bench, labels={"team": "x", "tone": "calm"}) == ["sessions/b"]
    for engine in ("demo", "demo@1", "demo:latest"):
        assert len(await listed(bench, engine=engine)) == 3
    assert await listed(bench, engine="demo@2") == await listed(bench, engine="other") == []


@pytest.mark.parametrize(
    ("only", "code", "field"),
    [
        ({"engine": "Demo!"}, grpc.StatusCode.INVALID_ARGUMENT, "engine"),
        ({"engine": "demo:none"}, grpc.StatusCode.NOT_FOUND, "engine"),
        ({"labels": {"": "x"}}, grpc.StatusCode.INVALID_ARGUMENT, "labels"),
    ],
)
async def test_a_filter_that_says_nothing_is_refused(
    bench: Bench, only: dict[str, Any], code: grpc.StatusCode, field: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match=field) as caught:
        await bench.stub.ListSessions(pb.ListSessionsRequest(**only))
    assert caught.value.code() is code


async def test_a_page_token_belongs_to_its_filter(bench: Bench) -> None:
    for session_id in ("a", "b"):
        await bench.opened(session_id=session_id, labels={"team": "x"})
    token = (await bench.stub.ListSessions(pb.ListSessionsRequest(page_size=1, labels={"team": "x"}))).next_page_token
    with pytest.raises(grpc.aio.AioRpcError, match="page_token"):
        await bench.stub.ListSessions(pb.ListSessionsRequest(page_size=1, page_token=token))


async def test_a_session_that_is_followed_is_changed_under_its_stream(bench: Bench) -> None:
    stream = await bench.opened(session_id="a", labels={"team": "x"})
    session = await changed(bench, stream.session, "labels", IDLE, labels={"team": "y"}, options=HOUR)
    assert session.labels == {"team": "y"}
    assert session.options.delete_after_idle_duration.seconds == 3600
    assert not session.HasField("expire_time")  # somebody follows it
    await stream.said("1")
    await stream.half_close()
    await stream.rest()

    async def expires() -> bool:
        found = (await bench.stub.GetSession(pb.GetSessionRequest(name="sessions/a"))).session
        return found.HasField("expire_time") and found.labels == {"team": "y"} and found.turns == 1

    await eventually(expires)
    assert await listed(bench, labels={"team": "y"}) == ["sessions/a"]


async def test_a_session_expires_from_the_change_on_or_never(bench: Bench) -> None:
    made = await bench.stub.CreateSession(
        pb.CreateSessionRequest(new_session=pb.NewSession(engine="demo", session_id="a", options=HOUR))
    )
    day = pb.SessionOptions(delete_after_idle_duration=Duration(seconds=86400))
    later = await changed(bench, "sessions/a", IDLE, options=day)
    assert later.expire_time.seconds > made.session.expire_time.seconds + 80_000
    never = await changed(bench, "sessions/a", IDLE)
    assert not never.HasField("expire_time")
    assert never.options.window_tokens == made.session.options.window_tokens


async def test_what_the_mask_does_not_name_stays(bench: Bench) -> None:
    await bench.opened(session_id="a", labels={"team": "x"}, options=HOUR)
    session = await changed(bench, "sessions/a", "labels", labels={"team": "y"})
    assert session.options.delete_after_idle_duration.seconds == 3600
    session = await changed(bench, "sessions/a", IDLE, labels={"team": "z"}, options=HOUR)
    assert session.labels == {"team": "y"}


@pytest.mark.parametrize(
    ("paths", "values", "words"),
    [
        ((), {}, "update_mask"),
        (("engine",), {"engine": "other"}, "'engine' cannot be changed; name labels or options.delete_after_idle"),
        (("labels", "options"), {}, "'options' cannot be changed"),
        (("*",), {}, r"'\*' cannot be changed"),
        (("labels",), {"labels": {"": "x"}}, "session.labels"),
        ((IDLE,), {"options": pb.SessionOptions(delete_after_idle_duration=Duration(seconds=-1))}, f"session.{IDLE}"),
    ],
)
async def test_what_cannot_be_changed_is_named(
    bench: Bench, paths: tuple[str, ...], values: dict[str, Any], words: str
) -> None:
    await bench.opened(session_id="a", labels={"team": "x"})
    with pytest.raises(grpc.aio.AioRpcError, match=words) as caught:
        await changed(bench, "sessions/a", *paths, **values)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (await bench.stub.GetSession(pb.GetSessionRequest(name="sessions/a"))).session.labels == {"team": "x"}


async def test_a_session_that_is_not_there_is_not_changed(bench: Bench) -> None:
    for name, reason in (("sessions/none", "SESSION_NOT_FOUND"), ("none", "INVALID_FIELD")):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await changed(bench, name, "labels")
        status = rpc_status.from_call(caught.value)
        assert status is not None
        assert info(status).reason == reason
