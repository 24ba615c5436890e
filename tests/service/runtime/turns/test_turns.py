"""Turns on a stream, over a real socket: what goes in and what comes out."""

from __future__ import annotations

from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from tests.fakes.engine import expected_greedy
from tests.samples.vocabularies import ASSISTANT, BEGIN, END, USER
from tests.service.runtime.runtime import ENDLESS, VOCABULARY, Bench, info, kinds, text_of, tokens_of


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
