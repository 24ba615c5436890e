"""What is asked of the replica that does not have the session: cancelled, changed, deleted, expired."""

from __future__ import annotations

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from tests.service.replicas.pair.replicas import TAKEN_OVER, Replicas, history
from tests.service.runtime.runtime import ENDLESS, eventually, reaper_passes


@pytest.mark.parametrize("discard", [True, False])
async def test_a_turn_is_cancelled_from_anywhere_and_nothing_is_taken_over(both: Replicas, discard: bool) -> None:
    stream = await both.here.opened(session_id="s")
    await stream.turn("1", generation=ENDLESS)
    await stream.turn("2")
    await stream.first_delta()
    cancel = pb.CancelTurnRequest(session="sessions/s", turn_id="1", discard=discard)
    for _ in range(2):
        await both.there.stub.CancelTurn(cancel)
    first = await stream.finished()
    assert (first.turn_id, first.reason) == ("1", pb.FINISH_REASON_CANCELLED)
    assert (first.usage.position == 1) is discard, "only the opening token is left"
    own_ends = {pb.FINISH_REASON_LENGTH, pb.FINISH_REASON_STOP}  # by what the first had said until it was cancelled
    assert (await stream.finished()).reason in own_ends
    await both.there.stub.CancelTurn(cancel)
    await both.there.stub.CancelTurn(pb.CancelTurnRequest(session="sessions/s", turn_id="none"))
    await stream.said("3")
    assert await history(both.there, "sessions/s") == ["1", "2", "3"]


async def test_a_session_is_deleted_from_anywhere(both: Replicas) -> None:
    stream = await both.here.opened(session_id="s")
    await stream.said("1")
    await both.there.stub.DeleteSession(pb.DeleteSessionRequest(name="sessions/s"))
    assert await stream.failure() == TAKEN_OVER
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await both.here.stub.GetSession(pb.GetSessionRequest(name="sessions/s"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_session_that_expires_elsewhere_is_left_to_who_has_it(both: Replicas) -> None:
    options = pb.SessionOptions()
    options.delete_after_idle_duration.FromMilliseconds(10)
    for bench in (both.here, both.there):
        await bench.restart(reap_s=0.02)
    stream = await both.here.opened(session_id="s", options=options)
    await stream.said("1")
    for bench in (both.here, both.there):
        passes = reaper_passes(bench)
        assert [await passes.get() for _ in range(3)] == [0, 0, 0]
    await stream.said("2")  # a session that is followed does not expire
    await stream.half_close()
    await stream.rest()

    async def gone() -> bool:
        try:
            await both.there.stub.GetSession(pb.GetSessionRequest(name="sessions/s"))
        except grpc.aio.AioRpcError as error:
            return error.code() is grpc.StatusCode.NOT_FOUND
        return False

    await eventually(gone)


async def test_a_session_is_changed_at_another_server_under_its_stream(both: Replicas) -> None:
    stream = await both.here.opened(session_id="s", labels={"team": "x"})
    idle = pb.SessionOptions()
    idle.delete_after_idle_duration.FromSeconds(3600)
    session = pb.Session(name="sessions/s", labels={"team": "y"}, options=idle)
    mask = FieldMask(paths=["labels", "options.delete_after_idle_duration"])
    answer = await both.there.stub.UpdateSession(pb.UpdateSessionRequest(session=session, update_mask=mask))
    assert answer.session.labels == {"team": "y"}

    async def known() -> bool:
        found = (await both.here.stub.GetSession(pb.GetSessionRequest(name="sessions/s"))).session
        return found.labels == {"team": "y"} and found.options.delete_after_idle_duration.seconds == 3600

    await eventually(known)
    await stream.said("1")
    await stream.half_close()
    await stream.rest()

    async def expires() -> bool:
        found = (await both.there.stub.GetSession(pb.GetSessionRequest(name="sessions/s"))).session
        return found.HasField("expire_time")

    await eventually(expires)
    moved = await both.there.resumed("sessions/s")
    await moved.said("2")
    assert await history(both.there, "sessions/s") == ["1", "2"]
