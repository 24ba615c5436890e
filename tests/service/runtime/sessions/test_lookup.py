"""Sessions and their turns through their own calls: looked up, listed, told apart by owner."""

from __future__ import annotations

import grpc

from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from tests.service.runtime.runtime import ENDLESS, Bench, refusal


async def test_a_session_can_be_looked_up(bench: Bench) -> None:
    stream = await bench.opened(session_id="mine", labels={"k": "v"})
    await stream.turn()
    position = (await stream.finished()).usage.position
    session = (await bench.stub.GetSession(pb.GetSessionRequest(name="sessions/mine"))).session
    assert (session.position, session.turns, session.labels["k"]) == (position, 1, "v")
    assert session.engine == "demo@1"
    assert session.state == pb.Session.STATE_RESIDENT
    assert not session.HasField("expire_time")
    assert session.last_active_time.ToDatetime() >= session.create_time.ToDatetime()


async def test_what_does_not_exist_is_not_found(bench: Bench) -> None:
    absent = (grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND")
    name = "sessions/none"
    assert await refusal(bench.stub.GetSession(pb.GetSessionRequest(name=name))) == absent
    assert await refusal(bench.stub.ListTurns(pb.ListTurnsRequest(session=name))) == absent
    assert await refusal(bench.stub.DeleteSession(pb.DeleteSessionRequest(name=name))) == absent
    wrong = (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert await refusal(bench.stub.GetSession(pb.GetSessionRequest(name="none"))) == wrong
    assert await refusal(bench.stub.ListSessions(pb.ListSessionsRequest(page_size=-1))) == wrong
    assert await refusal(bench.stub.ListSessions(pb.ListSessionsRequest(page_token="x"))) == wrong


async def test_sessions_are_listed_by_pages_the_last_active_first(bench: Bench) -> None:
    streams = [await bench.opened(session_id=f"s{index}") for index in range(5)]
    await streams[1].turn()
    await streams[1].finished()
    names, token = [], ""
    while True:
        page = await bench.stub.ListSessions(pb.ListSessionsRequest(page_size=2, page_token=token))
        names += [session.name.removeprefix("sessions/") for session in page.sessions]
        token = page.next_page_token
        if not token:
            break
    assert names == ["s1", "s4", "s3", "s2", "s0"]


async def test_turns_are_listed_with_what_went_in_and_came_out(bench: Bench) -> None:
    stream = await bench.opened()
    await stream.turn("a", text="one")
    await stream.turn("b", token_ids=pb.TokenIds(ids=[5, 6]), no_reply=True)
    await stream.turn("c", messages=pb.ChatMessages(messages=[pb.ChatMessage(role="user", content="x")]))
    for _ in range(3):
        await stream.finished()
    await stream.turn("d", generation=ENDLESS)
    await stream.first_delta()
    first = await bench.stub.ListTurns(pb.ListTurnsRequest(session=stream.session, page_size=3))
    rest = await bench.stub.ListTurns(
        pb.ListTurnsRequest(session=stream.session, page_size=3, page_token=first.next_page_token)
    )
    a, b, c, d = (*first.turns, *rest.turns)
    assert not rest.next_page_token
    assert (a.turn_id, a.text, a.reason) == ("a", "one", pb.FINISH_REASON_LENGTH)
    assert a.reply
    assert a.usage.generated_tokens == 6
    assert (list(b.token_ids.ids), b.reason, b.reply) == ([5, 6], pb.FINISH_REASON_INPUT_ONLY, "")
    assert c.messages.messages[0].content == "x"
    assert (d.turn_id, d.reason) == ("d", pb.FINISH_REASON_UNSPECIFIED)
    assert d.HasField("create_time")
    assert not d.HasField("end_time")


async def test_a_turn_without_an_id_gets_one(bench: Bench) -> None:
    stream = await bench.opened()
    await stream.turn()
    turn_id = (await stream.finished()).turn_id
    turns = (await bench.stub.ListTurns(pb.ListTurnsRequest(session=stream.session))).turns
    assert [turn.turn_id for turn in turns] == [turn_id]
    assert len(turn_id) == 32


async def test_owners_do_not_see_each_other(bench: Bench) -> None:
    await bench.restart(principal_header="X-User")
    stream = bench.stream(metadata=(("x-user", "ann"),))
    await stream.open(session_id="mine")
    ann, bob = (("x-user", "ann"),), (("x-user", "bob"),)
    request = pb.GetSessionRequest(name="sessions/mine")
    assert (await bench.stub.GetSession(request, metadata=ann)).session.name == "sessions/mine"
    absent = (grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND")
    assert await refusal(bench.stub.GetSession(request, metadata=bob)) == absent
    assert not (await bench.stub.ListSessions(pb.ListSessionsRequest(), metadata=bob)).sessions
    other = bench.stream(metadata=bob)
    assert not (await other.open(session_id="mine")).resumed
    nameless = (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_MISSING")
    assert await refusal(bench.stub.GetSession(request)) == nameless
