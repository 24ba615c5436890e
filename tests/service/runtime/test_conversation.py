"""Turns on a stream, over a real socket: what goes in, what comes out, what is refused."""

from __future__ import annotations

import threading
from typing import Any

import grpc
import pytest
from grpc_status import rpc_status

from runtime_service.decoding.text import Text
from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from tests.fakes.engine import expected_greedy
from tests.samples.vocabularies import ASSISTANT, BEGIN, END, USER
from tests.service.runtime.runtime import (
    ENDLESS,
    GEOMETRY,
    VOCABULARY,
    Bench,
    info,
    kinds,
    text_of,
    tokens_of,
    violations,
)

WINDOW = pb.SessionOptions(window_tokens=20, sink_tokens=2)


async def test_a_turn_starts_streams_and_finishes(bench: Bench) -> None:
    stream = bench.stream()
    opened = await stream.open(labels={"a": "b"})
    assert (opened.session.position, opened.resumed) == (1, False)
    assert opened.session.labels == {"a": "b"}
    await stream.turn("t1")
    events = await stream.until("finished")
    assert kinds(events)[0] == "started"
    assert set(kinds(events)[1:-1]) == {"delta"}
    assert {getattr(event, kind).turn_id for event, kind in zip(events, kinds(events), strict=True)} == {"t1"}
    finished = events[-1].finished
    assert finished.usage.generated_tokens == len(tokens_of(events)) == 6
    assert finished.reason == pb.FINISH_REASON_LENGTH
    assert finished.usage.position == 1 + events[0].started.prompt_tokens + 6 + 1  # opening, input, reply, closing
    sequences = [event.sequence for event in events]
    assert sequences == sorted(set(sequences))
    assert sequences[0] > 0
    await stream.half_close()
    assert await stream.rest() == []


async def test_turns_continue_the_same_tokens(bench: Bench) -> None:
    stream = await bench.opened()
    history = [BEGIN]
    for turn in ([7, 8, 9], [10, 11]):
        await stream.turn(token_ids=pb.TokenIds(ids=turn))
        said = tokens_of(await stream.until("finished"))
        history += turn
        window = bench.handle.sessions.live[0].session.window
        assert said == expected_greedy(history, window, len(said), VOCABULARY)
        history += said
    await stream.half_close()


async def test_text_is_wrapped_by_the_template(bench: Bench) -> None:
    stream = await bench.opened()
    await stream.turn("a", text="two", no_reply=True)
    assert (await stream.finished()).reason == pb.FINISH_REASON_INPUT_ONLY
    await stream.turn("b", messages=pb.ChatMessages(messages=[pb.ChatMessage(role="user", content="two")]))
    said = await stream.until("finished")
    text = bench.handle.engines.loaded[0].text
    two = text.encode("two")
    assert text.user("two") == (USER, *two, END)
    prompt = [BEGIN, *text.user("two"), *text.user("two"), ASSISTANT]
    window = bench.handle.sessions.live[0].session.window
    assert tokens_of(said) == expected_greedy(prompt, window, 6, VOCABULARY)


async def test_turns_that_wait_run_in_order_and_the_ninth_is_refused(bench: Bench) -> None:
    stream = await bench.opened()
    await stream.turn("first", generation=ENDLESS)
    await stream.first_delta()
    for index in range(9):
        await stream.turn(f"t{index}", generation={"max_new_tokens": 1})
    rejected = await stream.rejected()
    assert rejected.turn_id == "t8"
    assert info(rejected.error).reason == "TURN_QUEUE_FULL"
    await stream.send(cancel=pb.CancelTurn(turn_id="first"))
    order = [(await stream.finished()).turn_id for _ in range(9)]
    assert order == ["first", *(f"t{index}" for index in range(8))]


async def test_options_and_seed_are_told_and_repeat_the_reply(bench: Bench) -> None:
    asked = {"temperature": 1.5, "top_k": 40, "max_new_tokens": 12, "ignore_eos": True}
    stream = await bench.opened()
    await stream.turn(generation=asked)
    events = await stream.until("finished")
    used = events[0].started.generation
    assert used.top_k == 40
    assert used.top_p == 1.0
    again = await bench.opened()
    await again.turn(generation={**asked, "seed": used.seed})
    assert tokens_of(await again.until("finished")) == tokens_of(events)


async def test_log_probabilities_come_when_asked_for(bench: Bench) -> None:
    stream = await bench.opened()
    await stream.turn(generation={"logprobs": 3})
    events = await stream.until("finished")
    entries = [entry for event in events for entry in event.delta.logprobs]
    assert [entry.token_id for entry in entries] == tokens_of(events)
    assert all(len(entry.top) == 3 and entry.top[0].logprob >= entry.logprob for entry in entries)


async def test_a_stop_text_ends_the_reply_and_is_not_sent(bench: Bench) -> None:
    stream = await bench.opened()
    await stream.turn(generation={"max_new_tokens": 40, "ignore_eos": True})
    text = text_of(await stream.until("finished"))
    stop = next(text[i : i + 3] for i in range(4, len(text) - 3) if text.index(text[i : i + 3]) == i)
    again = await bench.opened()
    await again.turn(generation={"max_new_tokens": 40, "ignore_eos": True, "stop": [stop]})
    events = await again.until("finished")
    finished = events[-1].finished
    assert (finished.reason, finished.stop_sequence) == (pb.FINISH_REASON_STOP, stop)
    assert text_of(events) == text[: text.index(stop)]


async def test_a_conversation_goes_on_past_its_window(bench: Bench) -> None:
    stream = await bench.opened(options=WINDOW)
    evicted = 0
    for _ in range(10):
        await stream.turn()
        finished = await stream.finished()
        evicted += finished.usage.evicted_tokens
    assert finished.usage.position > 5 * 22
    assert evicted == finished.usage.position - 22


async def test_a_session_that_does_not_evict_fills_and_then_refuses(bench: Bench) -> None:
    options = pb.SessionOptions(window_tokens=20, sink_tokens=2, on_full=pb.SessionOptions.ON_FULL_ERROR)
    stream = await bench.opened(options=options)
    await stream.turn(generation=ENDLESS)
    finished = await stream.finished()
    assert finished.reason == pb.FINISH_REASON_CONTEXT_FULL
    assert finished.usage.position == 22
    await stream.turn()
    rejected = await stream.rejected()
    assert rejected.error.code == grpc.StatusCode.FAILED_PRECONDITION.value[0]
    assert info(rejected.error).reason == "CONTEXT_FULL"


async def test_an_input_longer_than_the_window_is_refused_unless_allowed(bench: Bench) -> None:
    stream = await bench.opened(options=WINDOW)
    ids = pb.TokenIds(ids=list(range(30)))
    await stream.turn("long", token_ids=ids)
    rejected = await stream.rejected()
    assert info(rejected.error).reason == "TURN_EXCEEDS_WINDOW"
    assert info(rejected.error).metadata == {"tokens": "30", "window": "20", "retry": "never"}
    await stream.turn("long", token_ids=ids, allow_eviction_within_turn=True)
    assert (await stream.finished()).usage.prompt_tokens == 30


async def test_an_input_far_too_long_is_refused_without_encoding_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[str] = []

    def noted(_: Text, content: str) -> tuple[int, ...]:
        encoded.append(content)
        return (7,) * 21

    monkeypatch.setattr(Text, "encode", noted)
    stream = await bench.opened(options=WINDOW)
    said = pb.ChatMessages(messages=[pb.ChatMessage(role="user", content="a b " * 25_000)])
    for turn in ({"text": "a b " * 25_000}, {"messages": said}):
        await stream.turn("long", **turn)
        rejected = await stream.rejected()
        assert info(rejected.error).reason == "TURN_EXCEEDS_WINDOW"
        assert "at least" in rejected.error.message
        assert encoded == []
    await stream.turn("long", text="a b " * 25_000, allow_eviction_within_turn=True)
    assert (await stream.finished()).usage.prompt_tokens == 24
    assert len(encoded) == 1


@pytest.mark.parametrize(
    ("turn", "reason", "field"),
    [
        ({"token_ids": pb.TokenIds(ids=[1, VOCABULARY])}, "TOKEN_OUT_OF_VOCABULARY", "turn.token_ids.ids[1]"),
        ({"token_ids": pb.TokenIds(ids=[-1])}, "TOKEN_OUT_OF_VOCABULARY", "turn.token_ids.ids[0]"),
        ({"token_ids": pb.TokenIds()}, "INVALID_FIELD", "turn.token_ids"),
        ({"messages": pb.ChatMessages()}, "INVALID_FIELD", "turn.messages.messages"),
        (
            {"messages": pb.ChatMessages(messages=[pb.ChatMessage(role="robot", content="x")])},
            "INVALID_FIELD",
            "turn.messages.messages[0].role",
        ),
        ({"generation": {"temperature": 11}}, "INVALID_FIELD", "turn.generation.temperature"),
        ({"generation": {"temperature": float("nan")}}, "INVALID_FIELD", "turn.generation.temperature"),
        ({"generation": {"max_new_tokens": 0}}, "INVALID_FIELD", "turn.generation.max_new_tokens"),
        ({"generation": {"top_p": 0}}, "INVALID_FIELD", "turn.generation.top_p"),
        ({"generation": {"stop": [""]}}, "INVALID_FIELD", "turn.generation.stop[0]"),
        ({"turn_id": "x" * 65}, "INVALID_FIELD", "turn.turn_id"),
    ],
)
async def test_a_wrong_turn_is_rejected_by_field_and_the_stream_goes_on(
    bench: Bench, turn: dict[str, Any], reason: str, field: str
) -> None:
    stream = await bench.opened()
    await stream.turn(**{"turn_id": "bad", **turn})
    rejected = await stream.rejected()
    assert rejected.turn_id == turn.get("turn_id", "bad")
    assert info(rejected.error).reason == reason
    assert violations(rejected.error) == [field]
    assert field.rsplit(".", 1)[-1] in rejected.error.message
    await stream.turn("good")
    assert (await stream.finished()).turn_id == "good"


async def test_a_turn_without_input_is_rejected(bench: Bench) -> None:
    stream = await bench.opened()
    await stream.send(turn=pb.Turn(turn_id="empty"))
    assert violations((await stream.rejected()).error) == ["turn.input"]


async def test_an_engine_without_a_template_takes_token_ids_only(bench: Bench) -> None:
    bench.publish("bare", text=False)
    await bench.handle.engines.load(await bench.handle.engines.resolve("bare", "reference"))
    stream = await bench.opened(engine="bare")
    await stream.turn(text="hello")
    assert info((await stream.rejected()).error).reason == "TEXT_UNSUPPORTED"
    await stream.turn(token_ids=pb.TokenIds(ids=[5]))
    assert (await stream.finished()).usage.generated_tokens == 6


async def test_text_that_is_not_utf_8_ends_the_stream_as_malformed(bench: Bench) -> None:
    assert bench.channel is not None
    call: Any = bench.channel.stream_stream("/sinkserve.runtime.v1.ConversationService/Converse")()
    await call.write(pb.ConverseRequest(open=pb.Open(new_session=pb.NewSession(engine="demo"))).SerializeToString())
    await call.read()
    good = pb.ConverseRequest(turn=pb.Turn(text="aa")).SerializeToString()
    await call.write(good.replace(b"aa", b"\xff\xfe"))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "turn.text" in (caught.value.details() or "")


# Opening


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


async def test_logits_that_are_not_finite_end_the_turn_and_the_session_goes_on(bench: Bench) -> None:
    await bench.stop()
    bench.poison = frozenset({77})
    await bench.start()
    stream = await bench.opened()
    await stream.turn(token_ids=pb.TokenIds(ids=[77]))
    finished = await stream.finished()
    assert finished.reason == pb.FINISH_REASON_ERROR
    assert info(finished.error).reason == "NON_FINITE_LOGITS"
    await stream.turn()
    assert (await stream.finished()).usage.generated_tokens == 6
