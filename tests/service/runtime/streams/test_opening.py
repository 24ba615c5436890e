"""How a stream is opened, over a real socket: what is refused, and what becomes of a system prompt."""

from __future__ import annotations

import threading
from typing import Any

import grpc
import pytest
from grpc_status import rpc_status

from runtime_service.decoding.text import Text
from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from tests.service.runtime.runtime import GEOMETRY, Bench, violations


async def test_a_second_open_ends_the_stream(bench: Bench) -> None:
    stream = await bench.opened()
    await stream.send(open=pb.Open(session=stream.session))
    assert await stream.failure() == (grpc.StatusCode.FAILED_PRECONDITION, "STREAM_ALREADY_OPEN")


@pytest.mark.parametrize("first", [{"turn": pb.Turn(text="x")}, {"cancel": pb.CancelTurn()}, {"close": pb.Close()}])
async def test_anything_before_open_ends_the_stream(bench: Bench, first: dict[str, Any]) -> None:
    stream = bench.stream()
    await stream.send(**first)
    assert await stream.failure() == (grpc.StatusCode.FAILED_PRECONDITION, "STREAM_NOT_OPEN")


@pytest.mark.parametrize(
    ("opening", "code", "reason"),
    [
        (pb.Open(), "INVALID_ARGUMENT", "INVALID_FIELD"),
        (pb.Open(session="sessions/none"), "NOT_FOUND", "SESSION_NOT_FOUND"),
        (pb.Open(session="nonsense"), "INVALID_ARGUMENT", "INVALID_FIELD"),
        (pb.Open(new_session=pb.NewSession(engine="nobody")), "NOT_FOUND", "ENGINE_NOT_FOUND"),
        (pb.Open(new_session=pb.NewSession(engine="")), "INVALID_ARGUMENT", "INVALID_FIELD"),
        (pb.Open(new_session=pb.NewSession(engine="demo", session_id="A!")), "INVALID_ARGUMENT", "INVALID_FIELD"),
        (pb.Open(new_session=pb.NewSession(engine="demo", labels={"": "x"})), "INVALID_ARGUMENT", "INVALID_FIELD"),
    ],
)
async def test_a_wrong_open_ends_the_stream_with_a_reason(
    bench: Bench, opening: pb.Open, code: str, reason: str
) -> None:
    stream = bench.stream()
    await stream.send(open=opening)
    assert await stream.failure() == (grpc.StatusCode[code], reason)


@pytest.mark.parametrize(
    ("opening", "field", "named"),
    [
        (pb.Open(session="sessions/any", after_sequence=-1), "open.after_sequence", "-1"),
        (pb.Open(new_session=pb.NewSession(engine="nobody@7")), "open.new_session.engine", "nobody@7"),
        (
            pb.Open(new_session=pb.NewSession(engine="demo", system_prompt="é" * (1 << 16) + "x")),
            "open.new_session.system_prompt",
            "at most 131072 bytes",
        ),
    ],
    ids=["after_sequence", "engine", "system_prompt"],
)
async def test_a_wrong_open_names_its_field(bench: Bench, opening: pb.Open, field: str, named: str) -> None:
    stream = bench.stream()
    await stream.send(open=opening)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stream.rest()
    status = rpc_status.from_call(caught.value)
    assert status is not None
    assert violations(status) == [field]
    assert field in status.message
    assert named in status.message


async def test_a_system_prompt_is_encoded_outside_the_event_loop(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    opening, threads = Text.opening, []

    def noted(text: Text, system_prompt: str = "") -> tuple[int, ...]:
        threads.append(threading.get_ident())
        return opening(text, system_prompt)

    monkeypatch.setattr(Text, "opening", noted)
    await bench.opened(system_prompt="a b " * 1000)
    assert threads
    assert threading.get_ident() not in threads


@pytest.mark.parametrize(
    "options",
    [
        pb.SessionOptions(sink_tokens=GEOMETRY.sinks + 1),
        pb.SessionOptions(window_tokens=GEOMETRY.window + 1),
        pb.SessionOptions(window_tokens=0),
        pb.SessionOptions(sink_tokens=-1),
        pb.SessionOptions(on_full=9),  # type: ignore[arg-type]  # a value of a later client
    ],
)
async def test_session_options_out_of_range_are_refused(bench: Bench, options: pb.SessionOptions) -> None:
    stream = bench.stream()
    await stream.send(open=pb.Open(new_session=pb.NewSession(engine="demo", options=options)))
    assert await stream.failure() == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")


async def test_an_engine_that_is_not_loaded_is_a_failed_precondition(bench: Bench) -> None:
    bench.publish("other")
    stream = bench.stream()
    await stream.send(open=pb.Open(new_session=pb.NewSession(engine="other")))
    assert await stream.failure() == (grpc.StatusCode.FAILED_PRECONDITION, "ENGINE_NOT_LOADED")


async def test_the_same_session_id_finds_the_session_and_another_request_does_not(bench: Bench) -> None:
    first = await bench.opened(session_id="mine", system_prompt="a")
    again = bench.stream()
    assert (await again.open(session_id="mine", system_prompt="a")).resumed
    assert await first.failure() == (grpc.StatusCode.ABORTED, "SESSION_TAKEN_OVER")
    other = bench.stream()
    await other.send(open=pb.Open(new_session=pb.NewSession(engine="demo", session_id="mine")))
    assert await other.failure() == (grpc.StatusCode.ALREADY_EXISTS, "SESSION_EXISTS")


@pytest.mark.parametrize(("pin", "pinned", "sinks"), [(None, True, 4), (True, True, 4), (False, False, 4)])
async def test_a_system_prompt_that_fits_becomes_the_sinks(
    bench: Bench, pin: bool | None, pinned: bool, sinks: int
) -> None:
    stream = bench.stream()
    opened = await stream.open(system_prompt="x", options=pb.SessionOptions(pin_system_prompt=pin))
    assert opened.system_prompt_pinned is pinned
    assert opened.session.options.sink_tokens == sinks
    assert opened.session.position == 4


async def test_a_system_prompt_that_has_to_be_pinned_and_does_not_fit_is_refused(bench: Bench) -> None:
    text = "far too long for four sinks"
    stream = bench.stream()
    assert not (await stream.open(system_prompt=text)).system_prompt_pinned
    options = pb.SessionOptions(pin_system_prompt=True)
    refused = bench.stream()
    await refused.send(open=pb.Open(new_session=pb.NewSession(engine="demo", system_prompt=text, options=options)))
    assert await refused.failure() == (grpc.StatusCode.INVALID_ARGUMENT, "SYSTEM_PROMPT_EXCEEDS_SINKS")
