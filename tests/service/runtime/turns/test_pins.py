"""Pinned turns are read again in every turn that would not see them."""

from __future__ import annotations

from itertools import pairwise

import grpc
import pytest

from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from tests.service.runtime.runtime import Bench, Stream, reason_of, refusal

SHORT = {"max_new_tokens": 2}


async def _said(stream: Stream, turn_id: str, text: str) -> list[str]:
    """Turns that were recalled."""
    await stream.turn(turn_id, text=text, generation=SHORT)
    return [turn.turn_id for turn in (await stream.until("finished"))[0].started.recalled]


async def _pin(bench: Bench, turn_id: str, session: str = "sessions/s") -> list[str]:
    answer = await bench.stub.PinTurn(pb.PinTurnRequest(session=session, turn_id=turn_id))
    return list(answer.session.pinned_turns)


async def test_a_pinned_turn_is_seen_for_ever_without_any_search(bench: Bench) -> None:
    stream = await bench.opened(session_id="s")
    await _said(stream, "fact", "Ann 17")
    assert await _pin(bench, "fact") == ["fact"]
    recalled = [await _said(stream, f"t{number}", "something else") for number in range(12)]
    assert recalled[0] == []
    told = [number for number, found in enumerate(recalled) if found]
    assert len(told) >= 3
    assert all(found in ([], ["fact"]) for found in recalled)
    assert max(later - earlier for earlier, later in pairwise(told)) <= 4
    answer = await bench.stub.UnpinTurn(pb.UnpinTurnRequest(session="sessions/s", turn_id="fact"))
    assert list(answer.session.pinned_turns) == []
    assert [await _said(stream, f"u{number}", "something else") for number in range(6)] == [[]] * 6


async def test_pins_outlive_the_server_and_go_with_forks(bench: Bench) -> None:
    stream = await bench.opened(session_id="s")
    for number in range(6):
        await _said(stream, f"t{number}", "so it is" if number == 0 else "something said")
    await _pin(bench, "t0")
    fork = await bench.stub.ForkSession(pb.ForkSessionRequest(name="sessions/s", session_id="f", turn_id="t4"))
    assert list(fork.session.pinned_turns) == ["t0"]
    await bench.restart()
    for name in ("sessions/s", "sessions/f"):
        assert await _said(await bench.resumed(name), "next", "and?") == ["t0"]


async def test_no_more_is_pinned_than_a_quarter_of_the_window(bench: Bench) -> None:
    stream = await bench.opened(session_id="s")
    for number in range(2):
        await _said(stream, f"t{number}", "so it is")
    assert await _pin(bench, "t0") == ["t0"]
    with pytest.raises(grpc.aio.AioRpcError, match="together they may have 16, a quarter") as caught:
        await _pin(bench, "t1")
    assert (caught.value.code(), reason_of(caught.value)) == (grpc.StatusCode.FAILED_PRECONDITION, "PINS_FULL")
    assert await _pin(bench, "t0") == ["t0"]


@pytest.mark.parametrize(
    ("session", "turn_id", "code", "reason"),
    [
        ("sessions/s", "none", "NOT_FOUND", "TURN_NOT_FOUND"),
        ("sessions/none", "t", "NOT_FOUND", "SESSION_NOT_FOUND"),
        ("none", "t", "INVALID_ARGUMENT", "INVALID_FIELD"),
        ("sessions/s", "a\nb", "INVALID_ARGUMENT", "INVALID_FIELD"),
        ("sessions/e", "t", "FAILED_PRECONDITION", "SESSION_NOT_KEPT"),
    ],
)
async def test_what_cannot_be_pinned_is_refused(
    bench: Bench, session: str, turn_id: str, code: str, reason: str
) -> None:
    await bench.opened(session_id="s")
    await bench.opened(session_id="e", options=pb.SessionOptions(durability=pb.SessionOptions.DURABILITY_NONE))
    call = bench.stub.PinTurn(pb.PinTurnRequest(session=session, turn_id=turn_id))
    assert await refusal(call) == (grpc.StatusCode[code], reason)
