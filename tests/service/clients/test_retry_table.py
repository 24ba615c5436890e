"""The SDK does what an error says about trying again, whatever its reason, and so what docs/use/clients.md says."""

from __future__ import annotations

import grpc
import pytest

from common.errors import Reason
from sinkserve.client import Client, Retry, SinkServeError
from tests.fakes.scripted_runtime import ScriptedRuntime, start_scripted_runtime
from tests.fakes.scripted_session import Loss, ScriptedSession
from tests.pages.retry_table import CLASSES, NONE, Row, rows

NOBODY = "127.0.0.1:1"
FAST = Retry(first_s=0.001, longest_s=0.01, give_up_after_s=5)
OPENED_AND_STARTED = 2
ENDINGS = [(row, code) for row in rows() for code in row.codes]


def ending(row: Row, code: str) -> Loss:
    """Ends a stream in mid-turn."""
    if row.reason == NONE:
        return Loss(OPENED_AND_STARTED, grpc.StatusCode[code])

    async def fail(_: ScriptedSession) -> None:
        kind = CLASSES["".join(word.title() for word in code.split("_"))]
        raise kind(Reason(row.reason), "ends here")

    return Loss(OPENED_AND_STARTED, effect=fail)


@pytest.mark.parametrize(("row", "code"), ENDINGS, ids=[f"{row.reason}-{code}" for row, code in ENDINGS])
async def test_the_sdk_comes_back_where_the_error_says_so(row: Row, code: str) -> None:
    runtime = ScriptedRuntime()
    runtime.losses[0] = ending(row, code)
    server = await start_scripted_runtime(runtime)
    try:
        failure = await _failure(server.address)
    finally:
        await server.stop(0)
    reopened = [opening.HasField("after_sequence") for opening in runtime.opens[1:]]
    if row.retry != "never":
        assert failure is None
        assert reopened == [row.retry == "same"]
    else:
        assert failure is not None
        assert (failure.code.name, failure.reason or NONE, failure.retry) == (code, row.reason, "never")
        assert reopened == []


async def _failure(address: str) -> SinkServeError | None:
    """Why a turn did not end well, after its stream did not."""
    async with Client(address, NOBODY, retry=FAST) as client:
        try:
            async with client.conversation("demo") as conversation:
                turn = await conversation.say("one two three four")
                await turn.wait()
                assert turn.text == "one two three four "
        except SinkServeError as error:
            return error
    return None
