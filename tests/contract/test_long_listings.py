"""Pages of what people can make long: each fits a message, and none is skipped, whatever the database."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from builder_service.api.wire import build_to_wire
from builder_service.queue.repository import BuildRepository
from common.catalog.catalog import Catalog
from common.db.database import Database
from common.db.paging import read_page
from common.spec.bounds import LONGEST_TEMPLATE
from common.spec.model_spec import ModelSpec, Source
from common.store.blob_store import open_store
from common.window import Geometry
from runtime_service.api.to_wire import turn_to_wire
from runtime_service.domain.turn import Message
from runtime_service.storage.repository import SessionRepository
from sinkserve.builder.v1.builder_service_pb2 import ListBuildsResponse
from sinkserve.runtime.v1.conversation_service_pb2 import ListTurnsResponse, TurnRecord
from tests.samples.session_examples import SESSION, finished, turn
from tests.samples.whole_manifests import make_manifest

MESSAGE = 4 << 20  # what a client takes unless it is told otherwise


def test_pages_of_long_builds_fit_a_message(database: Database) -> None:
    builds = BuildRepository(database, "here")
    spec = ModelSpec(name="demo", source=Source(uri="/m"), chat_template="é" * (LONGEST_TEMPLATE // 2))
    made = [builds.submit("local", spec).name for _ in range(14)]
    old = spec.model_copy(update={"chat_template": "x" * (MESSAGE + 1)})  # from before there were bounds
    made.append(builds.submit("local", old).name)
    listed: list[str] = []
    token = ""
    while token or not listed:
        page, token = builds.list("local", read_page(0, token, "x", (int, str)))
        response = ListBuildsResponse(builds=map(build_to_wire, page), next_page_token=token)
        assert response.ByteSize() < MESSAGE
        listed += [build.name for build in page]
    assert sorted(listed) == sorted(made)


def test_pages_of_long_turns_fit_a_message_and_one_that_does_not_is_cut(database: Database, tmp_path: Path) -> None:
    Catalog(database, open_store(str(tmp_path / "store"))).publish(make_manifest(Geometry(4, 8, 4, 2)), "test")
    sessions = SessionRepository(database)
    session = sessions.create(SESSION)
    long = (1 << 20) - 100
    for number, size in enumerate((long, long, long, MESSAGE, 5), 1):
        given = turn(number, text="é" * (size // 2))
        sessions.add_turn(session, given)
        sessions.finish_turn(session, finished(given, 1, (5,), 9), (1, 5))
    listed: list[TurnRecord] = []
    token = ""
    while token or not listed:
        found, token = sessions.list_turns(session, read_page(0, token, "x", (int,)))
        response = ListTurnsResponse(turns=map(turn_to_wire, found), next_page_token=token)
        assert response.ByteSize() < MESSAGE
        listed += response.turns
    assert [(record.turn_id, record.shortened) for record in listed] == [
        ("t1", False),
        ("t2", False),
        ("t3", False),
        ("t4", True),
        ("t5", False),
    ]
    assert listed[3].text == "é" * (1 << 19)


def test_messages_and_token_ids_are_cut_too() -> None:
    record = turn_to_wire(turn(1, token_ids=(2**31 - 1,) * 10**6))
    assert record.shortened
    assert record.ByteSize() < MESSAGE // 2
    said = (Message("user", "x" * (1 << 19)), Message("assistant", "y" * MESSAGE), Message("user", "z"))
    short = turn_to_wire(turn(1, messages=said))
    assert [(item.role, len(item.content)) for item in short.messages.messages] == [
        ("user", 1 << 19),
        ("assistant", (1 << 19) - 16),
    ]
    reply = finished(turn(2), 1, (5,), 9)
    assert reply.result is not None
    cut = turn_to_wire(replace(reply, result=replace(reply.result, text="x" * MESSAGE)))
    assert (cut.shortened, len(cut.reply)) == (True, 1 << 20)
