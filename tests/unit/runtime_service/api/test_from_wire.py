"""What is too long is refused before anything is made of it."""

from __future__ import annotations

from typing import Any

import pytest

from common.errors import Reason
from runtime_service.api import from_wire
from runtime_service.api.from_wire import MOST_MESSAGES, request_from_wire
from runtime_service.api.requests import Refused
from runtime_service.domain.turn import TurnRequest
from sinkserve.runtime.v1 import conversation_service_pb2 as pb

WINDOW = 8


@pytest.mark.parametrize(
    ("turn", "reason", "field"),
    [
        ({"token_ids": pb.TokenIds(ids=[1] * (WINDOW + 1))}, Reason.TURN_EXCEEDS_WINDOW, "turn.token_ids"),
        (
            {"messages": pb.ChatMessages(messages=[pb.ChatMessage()] * (MOST_MESSAGES + 1))},
            Reason.INVALID_FIELD,
            "turn.messages.messages",
        ),
        ({"generation": pb.GenerationOptions(stop=["x"] * 17)}, Reason.INVALID_FIELD, "turn.generation.stop"),
        ({"turn_id": "x" * 65}, Reason.INVALID_FIELD, "turn.turn_id"),
    ],
)
def test_a_turn_that_is_too_long_is_not_converted(
    turn: dict[str, Any], reason: Reason, field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(from_wire, "TurnInput", None)  # nothing is made of it
    refused = request_from_wire(pb.ConverseRequest(turn=pb.Turn(**turn)), WINDOW)
    assert isinstance(refused, Refused)
    assert (refused.error.reason, refused.error.violations[0].field) == (reason, field)


def test_a_turn_that_may_evict_within_itself_is_read_whatever_its_length() -> None:
    turn = pb.Turn(token_ids=pb.TokenIds(ids=[1] * (WINDOW + 1)), allow_eviction_within_turn=True)
    assert isinstance(request_from_wire(pb.ConverseRequest(turn=turn), WINDOW), TurnRequest)
