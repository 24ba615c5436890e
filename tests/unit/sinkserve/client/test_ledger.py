"""What a client sends on a stream, and what a lost stream leaves: the rules of the ledger one by one."""

from __future__ import annotations

from typing import Any

import pytest

from common.errors import Reason, ResourceExhausted, Unavailable
from common.rpc.grpc_status import to_status
from sinkserve.client import FinishReason
from sinkserve.client.ledger import TURNS_IN_FLIGHT, Ledger, Link
from sinkserve.client.turn import Turn
from sinkserve.runtime.v1 import conversation_service_pb2 as pb


def opened_ledger(**opened: Any) -> tuple[Ledger, Link]:
    ledger, link = Ledger(pb.NewSession(engine="demo")), Link()
    ledger.next_request(link)
    ledger.receive(pb.ConverseResponse(opened=pb.Opened(session=pb.Session(name="sessions/a"), **opened)), link)
    return ledger, link


def say(ledger: Ledger, turn_id: str) -> Turn:
    turn = Turn(pb.Turn(turn_id=turn_id, text="hi"), lambda: None)
    ledger.add(turn)
    return turn


def sent(ledger: Ledger, link: Link) -> list[str]:
    kinds = []
    while (request := ledger.next_request(link)) is not None:
        kinds.append(str(request.WhichOneof("message")))
    return kinds


def test_nothing_is_sent_before_the_stream_is_open() -> None:
    ledger, link = Ledger("sessions/a"), Link()
    say(ledger, "t")
    assert sent(ledger, link) == ["open"]


def test_a_lost_answer_to_open_creates_the_same_session_again() -> None:
    ledger = Ledger(pb.NewSession(engine="demo", session_id="mine"))
    requests = [ledger.next_request(Link()) for _ in range(2)]
    assert requests[0] == requests[1]


def test_more_turns_than_a_server_lets_wait_stay_here() -> None:
    ledger, link = opened_ledger()
    for number in range(TURNS_IN_FLIGHT + 3):
        say(ledger, f"t{number}")
    assert len(sent(ledger, link)) == TURNS_IN_FLIGHT
    ledger.receive(pb.ConverseResponse(sequence=9, finished=pb.TurnFinished(turn_id="t0")), link)
    assert len(sent(ledger, link)) == 1


def test_a_cancel_follows_its_turn_on_every_stream_and_a_stronger_one_follows_it() -> None:
    ledger, link = opened_ledger()
    turn = say(ledger, "t")
    turn.cancel_request = pb.CancelTurn(turn_id="t")
    assert sent(ledger, link) == ["turn", "cancel"]
    turn.cancel_request = pb.CancelTurn(turn_id="t", discard=True)
    assert sent(ledger, link) == ["cancel"]
    assert sent(ledger, Link(open_sent=True, opened=True)) == ["turn", "cancel"]


def test_close_comes_after_all_turns_and_again_on_a_new_stream() -> None:
    ledger, link = opened_ledger()
    for number in range(TURNS_IN_FLIGHT + 1):
        say(ledger, f"t{number}")
    ledger.close(delete=False)
    assert "close" not in sent(ledger, link)
    ledger.receive(pb.ConverseResponse(sequence=9, finished=pb.TurnFinished(turn_id="t0")), link)
    assert sent(ledger, link) == ["turn", "close"]
    assert not ledger.settled
    for number in range(1, TURNS_IN_FLIGHT + 1):
        ledger.receive(pb.ConverseResponse(sequence=9 + number, finished=pb.TurnFinished(turn_id=f"t{number}")), link)
    assert ledger.settled


def test_a_leaving_server_gets_no_more_turns_and_is_left_when_none_runs() -> None:
    ledger, link = opened_ledger()
    say(ledger, "running")
    sent(ledger, link)
    ledger.receive(pb.ConverseResponse(sequence=7, started=pb.TurnStarted(turn_id="running", attempt=1)), link)
    ledger.receive(pb.ConverseResponse(go_away=pb.GoAway()), link)
    say(ledger, "next")
    assert sent(ledger, link) == []
    assert not ledger.may_leave(link)
    ledger.receive(pb.ConverseResponse(sequence=8, finished=pb.TurnFinished(turn_id="running")), link)
    assert ledger.may_leave(link)
    assert [turn.id for turn in ledger.unfinished] == ["next"]


def test_a_turn_that_a_stopping_server_refuses_waits_for_the_next_and_any_other_fails() -> None:
    ledger, link = opened_ledger()
    kept, failed = say(ledger, "kept"), say(ledger, "failed")
    sent(ledger, link)
    draining = to_status(Unavailable(Reason.DRAINING, "stopping"))
    full = to_status(ResourceExhausted(Reason.TURN_QUEUE_FULL, "full"))
    ledger.receive(pb.ConverseResponse(rejected=pb.TurnRejected(turn_id="kept", error=draining)), link)
    ledger.receive(pb.ConverseResponse(rejected=pb.TurnRejected(turn_id="failed", error=full)), link)
    assert (kept.done, link.leaving) == (False, True)
    assert failed.error is not None
    assert failed.error.reason == "TURN_QUEUE_FULL"


def test_a_turn_cancelled_before_it_started_ends_although_its_start_was_never_seen() -> None:
    ledger, _ = opened_ledger()
    turn = say(ledger, "t")
    ledger.forget_sequence()
    link = Link()
    ledger.next_request(link)
    ledger.receive(pb.ConverseResponse(opened=pb.Opened(session=pb.Session(name="sessions/a"))), link)
    finished = pb.TurnFinished(turn_id="t", reason=pb.FINISH_REASON_CANCELLED)
    ledger.receive(pb.ConverseResponse(sequence=5, finished=finished), link)
    assert turn.finished.reason is FinishReason.CANCELLED


def tell(ledger: Ledger, link: Link, *events: tuple[int, str, str]) -> None:
    for sequence, kind, text in events:
        if kind == "started":
            event: dict[str, Any] = {"started": pb.TurnStarted(turn_id="t", attempt=1)}
        elif kind == "delta":
            event = {"delta": pb.Delta(turn_id="t", text=text, token_ids=[1])}
        else:
            event = {"finished": pb.TurnFinished(turn_id="t", usage=pb.Usage(generated_tokens=3))}
        ledger.receive(pb.ConverseResponse(sequence=sequence, **event), link)


def reopened(ledger: Ledger) -> tuple[Link, pb.Open]:
    link = Link()
    request = ledger.next_request(link)
    assert request is not None
    ledger.receive(pb.ConverseResponse(opened=pb.Opened(session=pb.Session(name="sessions/a"), resumed=True)), link)
    sent(ledger, link)
    return link, request.open


def test_an_event_that_comes_twice_counts_once() -> None:
    ledger, link = opened_ledger()
    turn = say(ledger, "t")
    tell(ledger, link, (5, "started", ""), (6, "delta", "one "), (7, "delta", "two "), (6, "delta", "one "))
    assert turn.text == "one two "


def test_after_a_gap_a_turn_counts_from_its_start_alone() -> None:
    ledger, link = opened_ledger()
    turn = say(ledger, "t")
    tell(ledger, link, (5, "started", ""), (6, "delta", "one "))
    ledger.forget_sequence()
    link, opening = reopened(ledger)
    assert not opening.HasField("after_sequence")
    tell(ledger, link, (8, "delta", "three "), (9, "finished", ""))
    assert (turn.text, turn.done) == ("one ", False)
    again = (
        (5, "started", ""),
        (6, "delta", "one "),
        (7, "delta", "two "),
        (8, "delta", "three "),
        (9, "finished", ""),
    )
    tell(ledger, link, *again)
    assert (turn.text, turn.done) == ("one two three ", True)


def test_a_gap_that_was_not_closed_stays_open_over_the_next_loss() -> None:
    ledger, link = opened_ledger()
    say(ledger, "t")
    tell(ledger, link, (5, "started", ""), (6, "delta", "one "))
    assert reopened(ledger)[1].after_sequence == 6
    ledger.forget_sequence()
    link, _ = reopened(ledger)
    tell(ledger, link, (8, "delta", "three "))
    link, opening = reopened(ledger)
    assert not opening.HasField("after_sequence")
    tell(ledger, link, (5, "started", ""))
    assert reopened(ledger)[1].HasField("after_sequence")


def test_events_of_turns_of_others_are_not_ours() -> None:
    ledger, link = opened_ledger()
    for event in (
        {"started": pb.TurnStarted(turn_id="x")},
        {"delta": pb.Delta(turn_id="x")},
        {"finished": pb.TurnFinished(turn_id="x")},
        {"rejected": pb.TurnRejected(turn_id="x")},
        {"heartbeat": pb.Heartbeat()},
    ):
        ledger.receive(pb.ConverseResponse(sequence=9, **event), link)
    assert not ledger.busy


def test_two_turns_of_one_id_do_not_run_at_once() -> None:
    ledger, _ = opened_ledger()
    say(ledger, "t")
    with pytest.raises(ValueError, match="runs or waits already"):
        say(ledger, "t")
