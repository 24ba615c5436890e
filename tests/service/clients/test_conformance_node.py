"""A client in another language: gRPC's own library for Node, which knows nothing but the protos."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from tests.nightly import LONG, one_in
from tests.servers.node import NodeClient, seen
from tests.service.runtime.runtime import Bench

TEXTS = ("my cat is called Miso", "what is my cat called?", "and on it goes")


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> NodeClient:
    """Installed."""
    return NodeClient.install(tmp_path_factory.mktemp("node"))


@pytest.fixture
def slow(bench: Bench) -> Bench:
    """A bench whose steps take a while, so that something can happen in mid-turn."""
    bench.before_step = lambda _: time.sleep(0.003)
    return bench


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [event["kind"] for event in events]


def tokens(events: list[dict[str, Any]]) -> list[int]:
    return [token for event in events for token in event.get("tokenIds", ())]


def last(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The `finished` that events end with."""
    assert kinds(events)[-1] == "finished", events
    return events[-1]


async def whole_reply(bench: Bench, text: str = "hello") -> list[int]:
    """Two hundred tokens that a fresh session replies."""
    stream = await bench.opened()
    await stream.turn(text=text, generation={"max_new_tokens": 200, "ignore_eos": True})
    events = await stream.until("finished")
    await stream.half_close()
    return [token for event in events for token in event.delta.token_ids]


async def test_it_holds_a_conversation(node: NodeClient, bench: Bench) -> None:
    saw = await node.sees(bench.handle.address, "hold", texts=TEXTS)
    assert saw["opened"]["kind"] == "opened"
    assert saw["opened"]["session"]["labels"] == {"client": "node"}
    assert [kinds(turn)[0] for turn in saw["turns"]] == ["started"] * len(TEXTS)
    for number, turn in enumerate(saw["turns"], start=1):
        assert tokens(turn) == await bench.said(*TEXTS[:number])
        assert last(turn)["usage"]["generatedTokens"] == len(tokens(turn))
    assert (saw["after"], saw["status"]["code"]) == ([], "OK")
    assert saw["session"]["turns"] == len(TEXTS)
    sequences = [int(event["sequence"]) for turn in saw["turns"] for event in turn]
    assert sequences == sorted(set(sequences))


async def test_its_calls_carry_the_routing_key(node: NodeClient, bench: Bench) -> None:
    await bench.stop()
    bench.settings["principal_header"] = "sinkserve-session-id"  # refuses calls without
    await bench.start()
    saw = await node.sees(bench.handle.address, "hold", texts=TEXTS[:1])
    assert saw["session"]["turns"] == 1  # found by who made it alone


async def test_after_a_half_close_its_turns_finish_in_order(node: NodeClient, bench: Bench) -> None:
    saw = await node.sees(bench.handle.address, "halfClose")
    assert [event["turnId"] for event in saw["events"] if event["kind"] == "finished"] == ["a", "b", "c"]
    assert saw["status"]["code"] == "OK"
    assert [turn["turnId"] for turn in saw["turns"]] == ["a", "b", "c"]


async def test_it_cancels_a_turn_and_the_session_lives(node: NodeClient, slow: Bench) -> None:
    saw = await node.sees(slow.handle.address, "cancel")
    finished = last(saw["events"])
    assert finished["reason"] == "FINISH_REASON_CANCELLED"
    assert 0 < finished["usage"]["generatedTokens"] == len(tokens(saw["events"])) < 5000
    assert last(saw["next"])["reason"] in {"FINISH_REASON_LENGTH", "FINISH_REASON_STOP"}
    assert saw["status"]["code"] == "OK"


async def test_it_discards_a_turn_as_if_it_had_not_been(node: NodeClient, slow: Bench) -> None:
    expected = await slow.said("hello", "hello")
    saw = await node.sees(slow.handle.address, "discard")
    assert saw["discarded"]["reason"] == "FINISH_REASON_CANCELLED"
    assert saw["discarded"]["usage"]["position"] == last(saw["before"])["usage"]["position"]
    assert tokens(saw["after"]) == expected


@pytest.mark.parametrize("told", one_in(2, [False, True], LONG), ids=["resend", "after_sequence"])
async def test_a_turn_whose_connection_was_cut_runs_once(node: NodeClient, slow: Bench, told: bool) -> None:
    expected = await whole_reply(slow)
    saw = await node.sees(slow.handle.address, "drop", goesOn=True, told=told)
    assert saw["retry"] == "same", saw["status"]
    assert saw["opened"]["resumed"] is True
    assert kinds(saw["before"])[:2] == ["started", "delta"]
    assert "finished" not in kinds(saw["before"])
    assert tokens([*saw["before"], *saw["after"]] if told else saw["after"]) == expected
    assert [turn["usage"]["generatedTokens"] for turn in saw["turns"]] == [len(expected)]


async def test_a_turn_that_stops_with_its_connection_does_not_run_again(node: NodeClient, slow: Bench) -> None:
    saw = await node.sees(slow.handle.address, "drop", goesOn=False, told=True)
    assert saw["retry"] == "same", saw["status"]
    assert last(saw["after"])["reason"] == "FINISH_REASON_CANCELLED"
    told = tokens([*saw["before"], *saw["after"]])
    assert [turn["usage"]["generatedTokens"] for turn in saw["turns"]] == [len(told)]
    assert len(told) < 5000


async def test_a_turn_id_repeats_its_turn_and_no_other(node: NodeClient, bench: Bench) -> None:
    saw = await node.sees(bench.handle.address, "reuse")
    assert (saw["again"][0], saw["again"][-1]) == (saw["first"][0], saw["first"][-1])
    assert tokens(saw["again"]) == tokens(saw["first"])
    assert (saw["other"]["code"], saw["other"]["reason"]) == ("ALREADY_EXISTS", "TURN_ID_REUSED")
    assert saw["other"]["metadata"] == {"turn_id": "one", "retry": "never"}
    assert [turn["text"] for turn in saw["turns"]] == ["hello"]


async def test_a_second_stream_takes_the_session_over(node: NodeClient, slow: Bench) -> None:
    expected = await whole_reply(slow)
    saw = await node.sees(slow.handle.address, "takeOver")
    assert (saw["status"]["code"], saw["status"]["reason"]) == ("ABORTED", "SESSION_TAKEN_OVER")
    assert saw["status"]["metadata"].pop("request")
    assert saw["status"]["metadata"] == {"session": saw["opened"]["session"]["name"], "retry": "never"}
    assert saw["retry"] == "never"
    assert tokens([*saw["before"], *saw["after"]]) == expected


async def test_it_talks_without_streams_of_requests(node: NodeClient, slow: Bench) -> None:
    expected = await slow.said("hello")
    saw = await node.sees(slow.handle.address, "callByCall")
    for name in ("first", "again"):
        assert saw[name]["status"]["code"] == "OK"
        assert kinds(saw[name]["events"])[:2] == ["opened", "started"]
        assert tokens(saw[name]["events"]) == expected
        assert last(saw[name]["events"])["turnId"] == "one"
    assert (saw["other"]["status"]["code"], saw["other"]["status"]["reason"]) == ("ALREADY_EXISTS", "TURN_ID_REUSED")
    assert saw["first"]["events"][0]["session"]["name"] == saw["created"]["session"]["name"]
    assert last(saw["cancelled"]["events"])["reason"] == "FINISH_REASON_CANCELLED"
    assert [turn["turnId"] for turn in saw["turns"]] == ["one", "endless"]


async def test_it_reads_why_it_was_refused(node: NodeClient, slow: Bench) -> None:
    saw = await node.sees(slow.handle.address, "refusals")
    wrong = {name: [each["field"] for each in said.get("violations", ())] for name, said in saw.items()}
    assert {name: (said["code"], said["reason"]) for name, said in saw.items()} == {
        "engine": ("NOT_FOUND", "ENGINE_NOT_FOUND"),
        "option": ("INVALID_ARGUMENT", "INVALID_FIELD"),
        "unopened": ("FAILED_PRECONDITION", "STREAM_NOT_OPEN"),
        "missing": ("NOT_FOUND", "SESSION_NOT_FOUND"),
        "turn": ("INVALID_ARGUMENT", "INVALID_FIELD"),
        "full": ("RESOURCE_EXHAUSTED", "TURN_QUEUE_FULL"),
        "twice": ("FAILED_PRECONDITION", "STREAM_ALREADY_OPEN"),
    }
    assert wrong["option"] == ["open.new_session.options.window_tokens"]
    assert wrong["turn"] == ["turn.generation.temperature", "turn.generation.top_p"]
    assert (saw["full"]["turnId"], saw["full"]["retryAfterMs"]) == ("8", 1000)


async def test_heartbeats_count_for_nothing_and_close_deletes(node: NodeClient, bench: Bench) -> None:
    await bench.stop()
    bench.settings["heartbeat_s"] = 0.05
    await bench.start()
    saw = await node.sees(bench.handle.address, "listen")
    assert [(event["kind"], event["sequence"]) for event in saw["events"]] == [("heartbeat", "0")] * 2
    assert last(saw["said"])["turnId"] == "one"
    assert saw["status"]["code"] == "OK"
    assert saw["gone"]["reason"] == "SESSION_NOT_FOUND"


@pytest.mark.long
async def test_it_follows_a_runtime_that_stops_and_another_that_starts(node: NodeClient, slow: Bench) -> None:
    expected = await whole_reply(slow)
    address = slow.handle.address
    async with node.running(address, "move") as process:
        assert process.stderr is not None
        assert await process.stderr.readline() == b"running\n"
        await slow.stop()
        slow.settings["listen"] = address
        await slow.start()
        saw = await asyncio.wait_for(seen(process), 60)
    rejected = next(event for event in saw["before"] if event["kind"] == "rejected")
    assert rejected["turnId"] == "late"
    assert (saw["status"]["code"], saw["status"]["reason"], saw["retry"]) == ("UNAVAILABLE", "DRAINING", "reopen")
    assert tokens(saw["before"]) == expected
    assert last(saw["after"])["turnId"] == "late"
    assert [turn["turnId"] for turn in saw["turns"]] == ["running", "late"]
