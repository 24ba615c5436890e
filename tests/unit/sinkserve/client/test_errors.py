"""What callers get from statuses, however they arrive."""

from __future__ import annotations

import grpc
import pytest
from google.rpc import code_pb2, error_details_pb2, status_pb2

from common import errors as server_errors
from common.errors import Reason
from common.rpc.grpc_status import CODES, to_status
from sinkserve.client import Unavailable, Unreachable, errors
from sinkserve.client.errors import SinkServeError, from_call, from_status


def failed_call(code: grpc.StatusCode, trailers: tuple[tuple[str, str | bytes], ...] = ()) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailers), "said")


@pytest.mark.parametrize("kind", CODES)
def test_every_error_of_a_server_has_a_class_of_the_same_name(kind: type[server_errors.SinkServeError]) -> None:
    error = from_status(to_status(kind(Reason.INTERNAL, "why")))
    assert type(error) is getattr(errors, kind.__name__)
    assert error.code is CODES[kind]


def test_reason_fields_delay_and_metadata_arrive() -> None:
    sent = server_errors.ResourceExhausted(
        Reason.CAPACITY_EXHAUSTED, "no room", field="open.new_session", retry_after_s=2.5, slots=8
    )
    error = from_status(to_status(sent))
    assert (error.reason, error.message, error.retry_after_s) == ("CAPACITY_EXHAUSTED", "no room", 2.5)
    assert [(item.field, item.description) for item in error.violations] == [("open.new_session", "no room")]
    assert error.metadata == {"slots": "8", "retry": "same"}
    assert str(error) == "RESOURCE_EXHAUSTED (CAPACITY_EXHAUSTED): no room"


def test_the_status_travels_in_the_trailers_of_a_call() -> None:
    status = to_status(server_errors.Aborted(Reason.SESSION_TAKEN_OVER, "another stream"))
    error = from_call(failed_call(grpc.StatusCode.ABORTED, (("grpc-status-details-bin", status.SerializeToString()),)))
    assert (type(error), error.reason) == (errors.Aborted, "SESSION_TAKEN_OVER")


def test_trailers_that_a_proxy_cut_leave_code_and_message() -> None:
    error = from_call(failed_call(grpc.StatusCode.ABORTED, (("grpc-status-details-bin", b"\xff\xff"),)))
    assert (type(error), error.reason, error.message) == (errors.Aborted, "", "said")


def test_unavailable_without_details_is_unreachable_and_with_details_is_not() -> None:
    nobody = from_call(failed_call(grpc.StatusCode.UNAVAILABLE), "here:1")
    assert isinstance(nobody, Unreachable)
    assert nobody.address == "here:1"
    status = to_status(server_errors.Unavailable(Reason.DRAINING, "stopping")).SerializeToString()
    leaving = from_call(failed_call(grpc.StatusCode.UNAVAILABLE, (("grpc-status-details-bin", status),)), "here:1")
    assert type(leaving) is Unavailable


def test_codes_without_a_class_and_unknown_codes_are_the_base_class() -> None:
    assert type(from_status(status_pb2.Status(code=code_pb2.UNIMPLEMENTED))) is SinkServeError
    assert from_status(status_pb2.Status(code=99)).code is grpc.StatusCode.UNKNOWN


@pytest.mark.parametrize(
    ("code", "retry"),
    [
        (grpc.StatusCode.UNAVAILABLE, "same"),
        (grpc.StatusCode.INTERNAL, "same"),  # a proxy reset the stream
        (grpc.StatusCode.CANCELLED, "same"),
        (grpc.StatusCode.ABORTED, "never"),
        (grpc.StatusCode.NOT_FOUND, "never"),
        (grpc.StatusCode.UNKNOWN, "never"),
    ],
)
def test_where_no_server_says_anything_only_a_lost_connection_is_tried_again(code: grpc.StatusCode, retry: str) -> None:
    assert from_call(failed_call(code)).retry == retry


@pytest.mark.parametrize(
    ("sent", "retry"),
    [
        (server_errors.Unavailable(Reason.SESSION_BUSY, "why"), "same"),
        (server_errors.Unavailable(Reason.DRAINING, "why"), "reopen"),
        (server_errors.Internal(Reason.INTERNAL, "why"), "never"),
        (server_errors.Cancelled(Reason.BUILD_CANCELLED, "why"), "never"),
    ],
)
def test_what_a_server_says_counts(sent: server_errors.SinkServeError, retry: str) -> None:
    assert from_status(to_status(sent)).retry == retry


def test_a_word_of_a_newer_server_is_never() -> None:
    status = status_pb2.Status(code=code_pb2.UNAVAILABLE)
    info = error_details_pb2.ErrorInfo(reason="NEW", domain="sinkserve", metadata={"retry": "tomorrow"})
    status.details.add().Pack(info)
    assert from_status(status).retry == "never"


def test_a_reason_of_another_domain_is_not_ours() -> None:
    status = status_pb2.Status(code=code_pb2.INTERNAL)
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="PROXY_FAILED", domain="example.com"))
    assert from_status(status).reason == ""
