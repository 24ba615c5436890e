"""What is sent of a view, byte by byte: what these numbers mean never changes."""

from __future__ import annotations

from dataclasses import replace

from runtime_service.api.to_wire import event_to_wire, session_to_wire
from runtime_service.domain.turn import FinishReason, Result, Timing, Usage
from runtime_service.domain.window_view import WindowNotice
from runtime_service.scheduling.slots import Residence
from runtime_service.turns.events import Event, TurnFinished
from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from tests.samples.session_examples import SESSION

USAGE = Usage(position=300, evicted_tokens=44, window_start_position=48, oldest_visible_turn="t7")
NOTICE = WindowNotice(4, 48, 2, ("t5", "t6"))


def _finished(usage: Usage, notice: WindowNotice | None) -> pb.TurnFinished:
    result = Result(FinishReason.STOP, usage, Timing(), notice=notice)
    return event_to_wire(Event(1, TurnFinished.of(result), "t8")).finished


def test_the_bytes_of_a_usage_and_of_a_notice_are_these() -> None:
    finished = _finished(USAGE, NOTICE)
    assert finished.usage.SerializeToString().hex() == "18ac02202c40304a027437"
    assert finished.notice.SerializeToString().hex() == "0804103018022202743522027436"
    whole = bytes.fromhex("0a02743810011a0b18ac02202c40304a027437")
    assert finished.SerializeToString().startswith(whole)
    assert finished.SerializeToString().endswith(bytes.fromhex("3a0e0804103018022202743522027436"))


def test_a_position_of_zero_is_said_and_one_that_nobody_kept_is_not() -> None:
    assert _finished(replace(USAGE, window_start_position=0), None).usage.HasField("window_start_position")
    unknown = _finished(replace(USAGE, window_start_position=None), None)
    assert not unknown.usage.HasField("window_start_position")
    assert not unknown.HasField("notice")


def test_a_session_tells_what_its_last_turn_did_and_all_that_has_left() -> None:
    session = replace(SESSION, position=20, window_start_position=15, oldest_visible_turn="t7")
    sent = session_to_wire(session, Residence.STORED)
    assert (sent.window_start_position, sent.oldest_visible_turn, sent.evicted_tokens) == (15, "t7", 12)
    assert sent.SerializeToString().endswith(bytes.fromhex("680f72027437780c"))
