"""Sessions that choose what their chat template gets: kept over forks and restarts, refused by name."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import grpc
import pytest
from google.protobuf.struct_pb2 import Struct
from grpc_status import rpc_status

from common.catalog.catalog import Catalog
from common.db.schema import open_database
from common.spec.manifest import TemplateVariant, TextModel
from common.store.blob_store import open_store
from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from tests.samples.vocabularies import ASSISTANT, END
from tests.samples.whole_manifests import TEMPLATE, make_manifest
from tests.service.runtime.requests.calls import created, got
from tests.service.runtime.runtime import VOCABULARY, Bench, Stream, violations

SILENT = TEMPLATE.model_copy(update={"assistant_before": (ASSISTANT, END)})
"""Without thinking, the model finds an end behind the assistant's header."""


@pytest.fixture
async def thinker(bench: Bench) -> Bench:
    """A runtime that also has an engine whose spec declares `enable_thinking: [true, false]`."""
    manifest = make_manifest(bench.geometry, vocabulary=VOCABULARY, name="thinker", end_token_ids=(1,), layers=2)
    variant = TemplateVariant(variables={"enable_thinking": False}, template=SILENT)
    spec = manifest.spec.model_copy(update={"template_variables": {"enable_thinking": (True, False), "tone": "dry"}})
    text = TextModel(template=TEMPLATE, variants=(variant,))
    database = open_database(bench.shared.database)
    Catalog(database, open_store(bench.shared.store)).publish(
        manifest.model_copy(update={"spec": spec, "text": text}), "test"
    )
    database.close()
    await bench.restart(engines=("thinker",))
    return bench


def choosing(**variables: Any) -> pb.SessionOptions:
    given = Struct()
    given.update(variables)
    return pb.SessionOptions(template_variables=given)


async def _opened(bench: Bench, session_id: str, **variables: Any) -> Stream:
    return await bench.opened(engine="thinker", session_id=session_id, options=choosing(**variables))


def _fed(bench: Bench) -> list[int]:
    return [token for step in bench.engines[-1].steps for feed in step for token in feed.tokens]


async def test_a_session_has_the_turns_that_it_chose_through_forks_and_restarts(thinker: Bench) -> None:
    thinking = await _opened(thinker, "default")
    await thinking.said("1", "hello")
    assert (ASSISTANT, END) not in pairwise(_fed(thinker))
    stream = await _opened(thinker, "silent", enable_thinking=False, tone="dry")
    before = len(_fed(thinker))
    await stream.said("1", "hello")
    fed = _fed(thinker)[before:]
    assert (ASSISTANT, END) in pairwise(fed)
    chosen = (await got(thinker, "sessions/silent")).options.template_variables
    assert dict(chosen) == {"enable_thinking": False}
    assert dict((await got(thinker, "sessions/default")).options.template_variables) == {"enable_thinking": True}
    fork = (await thinker.stub.ForkSession(pb.ForkSessionRequest(name="sessions/silent", session_id="f"))).session
    assert dict(fork.options.template_variables) == {"enable_thinking": False}
    expected = await stream.said("2", "and now?")
    await thinker.restart()
    again = await thinker.resumed("sessions/f")
    assert await again.said("2", "and now?") == expected


async def test_the_same_request_again_finds_the_session_and_another_choice_does_not(thinker: Bench) -> None:
    silent = await created(thinker, "thinker", session_id="s", options=choosing(enable_thinking=False))
    assert await created(thinker, "thinker", session_id="s", options=choosing(enable_thinking=False)) == silent
    with pytest.raises(grpc.aio.AioRpcError, match="created by another request"):
        await created(thinker, "thinker", session_id="s", options=choosing(enable_thinking=True))


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"enable_thinking": "maybe"}, "enable_thinking is 'maybe'; the engine's spec declares true or false"),
        ({"tone": "warm"}, "tone is 'warm'; the engine's spec declares dry"),
        ({"thinking": False}, "'thinking' is no variable that the engine's spec declares; those are: enable_think"),
        ({"enable_thinking": 0}, "enable_thinking is '0'; the engine's spec declares true or false"),
        ({"enable_thinking": [True]}, "has to be a text, a number, true or false; it is '[True]'"),
    ],
)
async def test_what_was_not_declared_is_refused_with_what_was(
    thinker: Bench, variables: dict[str, Any], said: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await created(thinker, "thinker", options=choosing(**variables))
    status = rpc_status.from_call(caught.value)
    assert status is not None
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert violations(status)[0].startswith("new_session.options.template_variables")
    assert said in status.message
