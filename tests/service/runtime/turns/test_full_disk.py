"""Turns that could not be kept because the disk is full: nobody is told that they ended."""

from __future__ import annotations

import grpc
import pytest

from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from tests.service.runtime.runtime import Bench, kinds, tokens_of


async def test_a_turn_that_could_not_be_kept_is_not_told_to_have_finished(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = await bench.said("hello")
    repository = bench.handle.shared.repository
    with monkeypatch.context() as patched:
        patched.setattr(repository, "finish_turn", _disk_full)
        stream = await bench.opened()
        await stream.turn("t", text="hello")
        assert await stream.failure() == (grpc.StatusCode.INTERNAL, "INTERNAL")
        assert "finished" not in kinds(stream.events)
    back = await bench.resumed(stream.session)
    await back.turn("t", text="hello")
    events = await back.until("finished")
    assert events[0].started.attempt == 2
    assert tokens_of(events) == expected
    assert (await bench.stub.GetSession(pb.GetSessionRequest(name=stream.session))).session.turns == 1


async def test_a_turn_that_could_not_be_kept_before_it_runs_ends_the_stream_and_changes_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = await bench.opened()
    with monkeypatch.context() as patched:
        patched.setattr(bench.handle.shared.repository, "add_turn", _disk_full)
        await stream.turn("t")
        assert await stream.failure() == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert not bench.engines[0].steps
    back = await bench.resumed(stream.session)
    await back.turn("t")
    assert (await back.finished()).reason == pb.FINISH_REASON_LENGTH


def _disk_full(*_: object) -> None:
    raise OSError("disk full")
