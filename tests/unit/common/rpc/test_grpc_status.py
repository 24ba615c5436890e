"""Every error has a code, every reason is on the wire, and a Status carries what a person can act on."""

from __future__ import annotations

import inspect

import pytest
from google.rpc import error_details_pb2

from common import errors
from common.errors import RETRY, FieldViolation, Reason, Retry, SinkServeError
from common.rpc.grpc_status import CODES, DOMAIN, MOST_VIOLATIONS, to_status
from sinkserve.engine.v1 import engine_pb2


def _details(error: SinkServeError) -> dict[str, object]:
    found = {}
    for any_ in to_status(error).details:
        kind = getattr(error_details_pb2, any_.TypeName().rpartition(".")[2])
        detail = kind()
        any_.Unpack(detail)
        found[kind.__name__] = detail
    return found


def test_every_error_class_has_a_code() -> None:
    classes = {item for _, item in inspect.getmembers(errors, inspect.isclass) if issubclass(item, SinkServeError)}
    assert set(CODES) == classes - {SinkServeError}


def test_reasons_are_those_of_the_wire() -> None:
    names = {name.removeprefix("ERROR_REASON_") for name in engine_pb2.ErrorReason.keys()}  # noqa: SIM118 - not a dict
    assert {reason.value for reason in Reason} == names - {"UNSPECIFIED"}


def test_a_status_names_reason_field_and_facts() -> None:
    error = errors.InvalidArgument(Reason.INVALID_FIELD, "top_p is 2", field="turn.generation.top_p", top_p=2)
    details = _details(error)
    info = details["ErrorInfo"]
    assert isinstance(info, error_details_pb2.ErrorInfo)
    assert (info.reason, info.domain, dict(info.metadata)) == (
        "INVALID_FIELD",
        DOMAIN,
        {"top_p": "2", "retry": "never"},
    )
    bad = details["BadRequest"]
    assert isinstance(bad, error_details_pb2.BadRequest)
    assert [item.field for item in bad.field_violations] == ["turn.generation.top_p"]


@pytest.mark.parametrize("kind", CODES)
@pytest.mark.parametrize("reason", Reason)
def test_every_status_says_whether_to_try_again(kind: type[SinkServeError], reason: Reason) -> None:
    info = _details(kind(reason, "why", retries=3))["ErrorInfo"]
    assert isinstance(info, error_details_pb2.ErrorInfo)
    assert info.metadata["retry"] == RETRY.get((kind, reason), Retry.NEVER)


def test_a_status_says_when_to_try_again() -> None:
    details = _details(errors.ResourceExhausted(Reason.CAPACITY_EXHAUSTED, "full", retry_after_s=1.5))
    retry = details["RetryInfo"]
    assert isinstance(retry, error_details_pb2.RetryInfo)
    assert retry.retry_delay.ToMilliseconds() == 1500


@pytest.mark.parametrize("count", [0, 1, MOST_VIOLATIONS, 500])
def test_details_stay_within_what_trailers_carry(count: int) -> None:
    violations = tuple(FieldViolation(f"field_{i}", "x" * 50) for i in range(count))
    status = to_status(errors.InvalidArgument(Reason.INVALID_SPEC, "y" * 5000, violations=violations))
    assert status.ByteSize() < 8000
