"""Turns that have left the window are read again: found by their words, named or pinned, over the wire.

The engine's logits are a hash of what it sees, so that equal replies mean equal windows.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from common.window import SessionWindow
from runtime_service.storage.repository import SessionRepository
from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from tests.fakes.engine import expected_greedy
from tests.servers.databases import new_database_url, one_by_day
from tests.service.runtime.runtime import VOCABULARY, Bench, Stream, info, reason_of, tokens_of

WINDOW = SessionWindow(4, 64)
RECALL: dict[str, Any] = {"recall_tokens": 16}
FACT, QUESTION = "Ann has 17", "who has 17?"
SHORT = {"max_new_tokens": 2}


async def _told(bench: Bench, session_id: str = "s", others: int = 4, **options: Any) -> Stream:
    """A session in which a fact was told, and has left the window since."""
    stream = await bench.opened(session_id=session_id, options=pb.SessionOptions(**(options or RECALL)))
    await stream.said("fact", FACT, generation=SHORT)
    for number in range(others):
        await stream.said(f"other{number}", f"{'abcdefgh'[number]} good day to you", generation=SHORT)
    return stream


async def _asked(stream: Stream, turn_id: str = "q", text: str = QUESTION, **turn: Any) -> list[pb.ConverseResponse]:
    await stream.turn(turn_id, text=text, generation=SHORT, **turn)
    return await stream.until("finished")


def _recalled(events: list[pb.ConverseResponse]) -> list[str]:
    return [turn.turn_id for turn in events[0].started.recalled]


def _history(bench: Bench, session_id: str = "s") -> list[int]:
    repository = SessionRepository(bench.handle.database)
    return repository.history(repository.get("local", session_id), 10**6)[2]


async def test_what_left_the_window_is_found_by_its_words_and_read_again(bench: Bench) -> None:
    stream = await _told(bench)
    before = _history(bench)
    events = await _asked(stream)
    (recalled,) = events[0].started.recalled
    assert (recalled.turn_id, recalled.position) == ("fact", 1)
    its = before[1 : 1 + recalled.tokens]
    after = _history(bench)
    assert after[len(before) :][: recalled.tokens] == its
    usage = events[-1].finished.usage
    assert usage.recalled_tokens == recalled.tokens
    assert usage.prompt_tokens == events[0].started.prompt_tokens > usage.recalled_tokens
    listed = (await bench.stub.ListTurns(pb.ListTurnsRequest(session="sessions/s"))).turns[-1]
    assert [turn.turn_id for turn in listed.recalled] == ["fact"]


async def test_replies_are_those_of_a_session_that_was_given_the_turns_by_hand(bench: Bench) -> None:
    stream = await _told(bench)
    before = _history(bench)
    events = await _asked(stream)
    prompt = events[0].started.prompt_tokens
    fed = _history(bench)[: len(before) + prompt]
    assert tokens_of(events) == expected_greedy(fed, WINDOW, 2, VOCABULARY)
    by_hand = await bench.opened()
    ids = pb.TokenIds(ids=fed[1:])  # behind the opening
    assert await by_hand.said("all", token_ids=ids, generation=SHORT, allow_eviction_within_turn=True) == tokens_of(
        events
    )


async def test_without_it_nothing_is_recalled_and_nothing_kept_to_find(bench: Bench) -> None:
    stream = await _told(bench, on_full=pb.SessionOptions.ON_FULL_EVICT)
    events = await _asked(stream)
    assert (_recalled(events), events[-1].finished.usage.recalled_tokens) == ([], 0)
    assert tokens_of(events) == expected_greedy(_history(bench)[:-3], WINDOW, 2, VOCABULARY)
    with bench.handle.database.read() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM recall_words").scalar() == 0


async def test_what_the_model_still_sees_is_not_read_again(bench: Bench) -> None:
    stream = await _told(bench, others=1)
    assert _recalled(await _asked(stream)) == []


async def test_a_copy_that_is_still_seen_is_not_made_again_until_it_has_left(bench: Bench) -> None:
    stream = await _told(bench)
    assert _recalled(await _asked(stream, "q1")) == ["fact"]
    await bench.restart()
    stream = await bench.resumed("sessions/s")
    assert "fact" not in _recalled(await _asked(stream, "q2"))
    for number in range(4):
        await stream.said(f"more{number}", f"{'ijkl'[number]} very nice day", generation=SHORT)
    assert _recalled(await _asked(stream, "q3", "is 17 with Ann?")) == ["fact"]


async def test_a_turn_says_itself_what_it_recalls(bench: Bench) -> None:
    stream = await _told(bench)
    assert _recalled(await _asked(stream, "none", recall=pb.Recall(tokens=0))) == []
    named = await _asked(stream, "named", "and so?", recall=pb.Recall(turn_ids=["fact"]))
    assert _recalled(named) == ["fact"]


@pytest.mark.parametrize(
    ("turn", "reason", "said"),
    [
        (
            {"tokens": 17},
            "INVALID_FIELD",
            "turn.recall.tokens has to be 0 to 16, a quarter of the session's window of 64",
        ),
        ({"turn_ids": ["none"]}, "TURN_NOT_FOUND", "turn.recall.turn_ids: sessions/s has no turn 'none'"),
        ({"turn_ids": ["fact", "other0"]}, "INVALID_FIELD", "turns of 32 tokens together, and this turn may recall 16"),
        ({"turn_ids": [str(number) for number in range(65)]}, "INVALID_FIELD", "names 65 turns; at most 64"),
        ({"turn_ids": ["a\nb"]}, "INVALID_FIELD", "turn.recall.turn_ids[0]"),
        ({"turn_ids": [""]}, "INVALID_FIELD", "turn.recall.turn_ids[0]"),
    ],
)
async def test_what_cannot_be_recalled_is_refused(bench: Bench, turn: dict[str, Any], reason: str, said: str) -> None:
    stream = await _told(bench, others=1)
    await stream.turn("q", text=QUESTION, recall=pb.Recall(**turn))
    error = (await stream.rejected()).error
    assert (info(error).reason, said in error.message) == (reason, True), error


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"recall_tokens": 17}, "has to be 0 to 16, a quarter of the session's window of 64; it is 17"),
        ({"recall_tokens": -1}, "has to be 0 to 16"),
        ({"recall_tokens": 9, "window_tokens": 32}, "has to be 0 to 8, a quarter of the session's window of 32"),
        ({"recall_tokens": 1, "durability": "DURABILITY_NONE"}, "nothing is kept"),
    ],
)
async def test_a_session_cannot_recall_more_than_a_quarter_nor_what_is_not_kept(
    bench: Bench, options: dict[str, Any], said: str
) -> None:
    new = pb.NewSession(engine="demo", options=pb.SessionOptions(**options))
    with pytest.raises(grpc.aio.AioRpcError, match="options.recall_tokens") as caught:
        await bench.stub.CreateSession(pb.CreateSessionRequest(new_session=new))
    assert (reason_of(caught.value), said in str(caught.value.details())) == ("INVALID_FIELD", True)


async def test_a_search_in_a_session_that_keeps_no_words_is_refused(bench: Bench) -> None:
    stream = await bench.opened()
    await stream.turn("q", recall=pb.Recall(tokens=3))
    assert "the session has recall_tokens 0" in (await stream.rejected()).error.message


async def test_a_rewind_and_a_fork_forget_what_they_drop_and_find_what_they_keep(bench: Bench) -> None:
    stream = await _told(bench)
    await stream.said("later", "Bob has 99", generation=SHORT)
    for number in range(4):
        await stream.said(f"more{number}", f"{'ijkl'[number]} very nice day", generation=SHORT)
    await bench.stub.ForkSession(pb.ForkSessionRequest(name="sessions/s", turn_id="other3", session_id="f"))
    await bench.stub.RewindSession(pb.RewindSessionRequest(name="sessions/s", turn_id="other3"))
    for name in ("sessions/f", "sessions/s"):
        stream = await bench.resumed(name)
        assert _recalled(await _asked(stream, "q1", "Bob 99")) == []
        assert _recalled(await _asked(stream, "q2", "Ann 17")) == ["fact"]


async def test_others_are_never_searched(bench: Bench) -> None:
    await _told(bench)
    stream = await _told(bench, "t", **RECALL)
    await bench.stub.DeleteSession(pb.DeleteSessionRequest(name="sessions/s"))
    other = await bench.opened(session_id="u", options=pb.SessionOptions(**RECALL))
    for number in range(5):
        await other.said(f"x{number}", f"{'abcdefgh'[number]} good day to you", generation=SHORT)
    assert _recalled(await _asked(other)) == []
    assert _recalled(await _asked(stream)) == ["fact"]


async def test_a_repeated_turn_tells_what_it_recalled(bench: Bench) -> None:
    stream = await _told(bench)
    events = await _asked(stream)
    await bench.restart()
    again = await _asked(await bench.resumed("sessions/s"))
    assert [again[0].started, again[-1].finished] == [events[0].started, events[-1].finished]


@pytest.fixture(params=one_by_day())
async def anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    """On each kind of database."""
    with new_database_url(request.param, tmp_path, with_schema=True) as url:
        bench = Bench(tmp_path, {}, url)
        bench.publish()
        await bench.start()
        yield bench
        await bench.stop()


HOSTILE = {
    "'; DROP TABLE recall_words; --": [],
    '17"; DELETE FROM recall_turns': ["fact"],
    'Ann" OR 1=1 NEAR(has 17)* AND NOT ^17': ["fact"],
    "Ann:* & has | !17 <-> (": ["fact"],
    "%_\\ has 17 $1 :words ?": ["fact"],
    "\x00\x01 has \u202e17\ufffe": ["fact"],
    "17 " * 1500: [],  # leaves no room
}


async def test_whatever_is_asked_is_words_and_no_query(anywhere: Bench) -> None:
    for number, (text, wanted) in enumerate(HOSTILE.items()):
        stream = await _told(anywhere, f"s{number}", **RECALL)
        assert _recalled(await _asked(stream, text=text, allow_eviction_within_turn=True)) == wanted, text
        for other in range(4):
            await stream.said(f"then{other}", "good day to you", generation=SHORT)
        assert "fact" in _recalled(await _asked(stream, "after", "Ann 17")), text
        await stream.half_close()


async def test_a_question_of_a_megabyte_is_refused_by_name_and_harms_nothing(anywhere: Bench) -> None:
    stream = await _told(anywhere)
    await stream.turn("q", text="who has 17? " * 90_000, generation=SHORT)
    assert info((await stream.rejected()).error).reason == "TURN_EXCEEDS_WINDOW"
    assert _recalled(await _asked(stream, "after", "Ann 17")) == ["fact"]
