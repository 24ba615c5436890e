"""The path of a string that is not UTF-8 is found in the raw bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.rpc.utf8_check import field_not_utf8
from sinkserve.runtime.v1 import conversation_service_pb2 as pb


def _spoiled(message: pb.ConverseRequest, text: str) -> bytes:
    data: bytes = message.SerializeToString()
    assert data.count(text.encode()) == 1
    return data.replace(text.encode(), b"\xff" * len(text))


@pytest.mark.parametrize(
    ("message", "path"),
    [
        (pb.ConverseRequest(turn=pb.Turn(turn_id="t", text="hello")), "turn.text"),
        (pb.ConverseRequest(open=pb.Open(session="hello")), "open.session"),
        (
            pb.ConverseRequest(turn=pb.Turn(messages=pb.ChatMessages(messages=[pb.ChatMessage(content="hello")]))),
            "turn.messages.messages.content",
        ),
        (
            pb.ConverseRequest(
                turn=pb.Turn(no_reply=True, generation=pb.GenerationOptions(temperature=1, seed=2**63, stop=["hello"]))
            ),
            "turn.generation.stop",
        ),
        (
            pb.ConverseRequest(open=pb.Open(new_session=pb.NewSession(labels={"k": "hello"}))),
            "open.new_session.labels.value",
        ),
    ],
)
def test_names_the_field(message: pb.ConverseRequest, path: str) -> None:
    assert field_not_utf8(pb.ConverseRequest.DESCRIPTOR, _spoiled(message, "hello")) == path


def test_a_good_message_has_no_bad_field() -> None:
    data = pb.ConverseRequest(turn=pb.Turn(text="żółw")).SerializeToString()
    assert field_not_utf8(pb.ConverseRequest.DESCRIPTOR, data) is None


@given(st.binary(max_size=200))
def test_rubbish_never_raises(data: bytes) -> None:
    field_not_utf8(pb.ConverseRequest.DESCRIPTOR, data)
