"""A replica that was thought dead and wakes: nothing that it does counts any more."""

from __future__ import annotations

from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from tests.service.replicas.pair.replicas import TAKEN_OVER, Replicas, history
from tests.service.runtime.runtime import ENDLESS, Stream


async def test_who_was_thought_dead_and_wakes_changes_nothing(both: Replicas) -> None:
    stream = await both.here.opened(session_id="s")
    await stream.said("1")
    last = stream.events[-1].sequence
    await stream.turn("2", generation=ENDLESS)
    await stream.first_delta()
    await both.forget_lease(both.here)
    moved = await both.there.resumed("sessions/s", after_sequence=last)
    started = (await moved.until("started"))[-1].started
    assert (started.turn_id, started.attempt) == ("2", 2)
    await moved.send(cancel=pb.CancelTurn(turn_id="2"))
    await moved.finished()
    before = await history(both.there, "sessions/s")
    await stream.send(cancel=pb.CancelTurn(turn_id="2"))  # its end cannot be kept
    assert await stream.failure() == TAKEN_OVER
    assert await history(both.there, "sessions/s") == before
    assert not both.here.handle.sessions.live


async def test_a_turn_at_who_was_thought_dead_is_not_taken(both: Replicas) -> None:
    stream = await both.here.opened(session_id="s")
    await stream.said("1")
    await both.forget_lease(both.here)
    moved = await both.there.resumed("sessions/s")
    await stream.turn("2")
    assert await stream.failure() == TAKEN_OVER
    await moved.said("3")
    assert await history(both.there, "sessions/s") == ["1", "3"]


async def _two_stories(both: Replicas) -> tuple[Stream, list[int]]:
    """`here` is thought dead with turn 2 at its end, and `there` goes on without it; what comes third, then."""
    stream = await both.here.opened(session_id="s")
    await stream.said("1", text="one")
    await stream.said("2", text="two")
    await both.forget_lease(both.here)
    await both.there.stub.RewindSession(pb.RewindSessionRequest(name="sessions/s", turn_id="1"))
    moved = await both.there.resumed("sessions/s")
    await moved.said("other", text="another story that is not the one before")
    return moved, await both.there.said("one", "another story that is not the one before", "three")


async def test_who_wakes_and_is_asked_for_a_session_that_it_lost_goes_on_as_the_others_did(both: Replicas) -> None:
    moved, third = await _two_stories(both)
    await both.here.handle.membership.start()
    back = await both.here.resumed("sessions/s")
    assert await moved.failure() == TAKEN_OVER
    assert await back.said("3", text="three") == third
    assert await history(both.here, "sessions/s") == ["1", "other", "3"]


async def test_a_fork_by_who_was_thought_dead_goes_on_as_the_others_did(both: Replicas) -> None:
    _, third = await _two_stories(both)
    await both.here.stub.ForkSession(pb.ForkSessionRequest(name="sessions/s", session_id="f"))
    fork = await both.here.resumed("sessions/f")
    assert await fork.said("3", text="three") == third


async def test_a_turn_that_another_accepted_is_not_taken_by_who_was_thought_dead(both: Replicas) -> None:
    stream = await both.here.opened(session_id="s")
    await stream.said("1")
    await both.forget_lease(both.here)
    moved = await both.there.resumed("sessions/s")
    await moved.turn("2", generation=ENDLESS)
    await moved.first_delta()
    await stream.turn("2", generation=ENDLESS)
    assert await stream.failure() == TAKEN_OVER
    await moved.send(cancel=pb.CancelTurn(turn_id="2"))
    await moved.finished()
