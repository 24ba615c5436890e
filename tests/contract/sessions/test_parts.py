"""What a reply thought and called is kept beside its text, and goes with a fork, whatever the database."""

from __future__ import annotations

import json
from dataclasses import replace

from sqlalchemy import select

from common.db.database import Database
from common.db.paging import Page
from common.text.tools.values import Tool, ToolCall
from runtime_service.domain.turn import FinishReason, Message
from runtime_service.storage.branches import SessionBranches
from runtime_service.storage.repository import SessionRepository
from runtime_service.storage.tables import turns
from tests.samples.session_examples import SESSION, after, finished, turn

CALLS = (ToolCall("a1b2c3d4e", "now", "{}"), ToolCall("f5g6h7i8j", "ort", '{"ö": 1', incomplete=True))
RESULTS = (Message("tool", "noon", CALLS[0].id, "now"), Message("assistant", "", tool_calls=CALLS[:1]))
TOOLS = (Tool("now"), Tool("ort", "Wo.", {"type": "object", "properties": {"b": {}, "a": {"type": "integer"}}}))


def test_calls_and_thoughts_come_back_and_programs_of_before_read_a_stop(
    repository: SessionRepository, database: Database
) -> None:
    session = repository.create(replace(SESSION, options=replace(SESSION.options, tools=TOOLS)))
    assert repository.get("local", session.session_id).options.tools == TOOLS
    asked = turn(1, messages=RESULTS)
    repository.add_turn(session, asked)
    done = finished(asked, 2, (7, 8), 6)
    assert done.result
    usage = replace(done.result.usage, reasoning_tokens=1)
    result = replace(done.result, reason=FinishReason.TOOL_CALLS, usage=usage, reasoning="hm", tool_calls=CALLS)
    done = replace(done, result=result)
    session = after(session, done)
    repository.finish_turn(session, done, (5, 6, 7, 8))
    target = SessionBranches(database).fork(session, "t1", replace(session, session_id="b"))
    for kept in (session, target):
        (found,), _ = repository.list_turns(kept, Page(2, None, "turns"))
        assert (found.result, found.request) == (result, asked.request)
    with database.read() as connection:
        assert {json.loads(text)["reason"] for text in connection.scalars(select(turns.c.result))} == {"STOP"}
