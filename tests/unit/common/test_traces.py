"""Spans come to a collector as one tree under the caller's span, with their own times; off costs nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from common.errors import InvalidArgument
from common.tracing import collector as collector_module
from common.tracing.span import Span
from common.tracing.traces import NoTraces, open_traces
from tests.servers.otlp_collector import Collector, attributes, collecting

TREE = Span(
    "chat demo@1",
    100.0,
    103.5,
    {"gen_ai.operation.name": "chat", "gen_ai.response.finish_reasons": ["stop"], "gen_ai.usage.input_tokens": 5},
    children=(Span("queue", 100.0, 101.0), Span("prefill", 101.0, 103.5, children=(Span("restore", 101.0, 102.0),))),
    error="NON_FINITE_LOGITS",
    serves=True,
)
BATCH = 512  # spans that the SDK sends at once
TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as found:
        yield found


def record(collector: Collector, parent: str = "", share: float = 1.0) -> None:
    traces = open_traces("sinkserve-runtime", collector.endpoint, share)
    assert traces.on
    traces.record(TREE, parent)
    traces.close()


def test_a_tree_of_spans_arrives_under_the_span_of_the_caller(collector: Collector) -> None:
    record(collector, f"00-{TRACE}-{CALLER}-01")
    top = collector.wait_for("chat")
    assert (top.trace_id.hex(), top.parent_span_id.hex()) == (TRACE, CALLER)
    assert [span.name for span in collector.children(top)] == ["queue", "prefill"]
    prefill = collector.wait_for("prefill")
    assert [span.name for span in collector.children(prefill)] == ["restore"]
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}
    assert (top.start_time_unix_nano, top.end_time_unix_nano) == (100 * 10**9, int(103.5 * 10**9))
    assert attributes(top) == dict(TREE.attributes)
    assert top.status.message == "NON_FINITE_LOGITS"


def test_without_a_caller_it_is_a_trace_of_its_own(collector: Collector) -> None:
    record(collector)
    assert not collector.wait_for("chat").parent_span_id


@pytest.mark.parametrize("parent", ["", "rubbish", "00-0-0-01", f"00-{TRACE}-{CALLER}"])
def test_a_parent_that_is_none_is_not_believed(collector: Collector, parent: str) -> None:
    record(collector, parent)
    assert not collector.wait_for("chat").parent_span_id


def test_who_does_not_want_a_trace_gets_none_and_whoever_wants_all_gets_them(collector: Collector) -> None:
    record(collector, f"00-{TRACE}-{CALLER}-00")
    record(collector, share=0.0)
    assert not collector.spans
    record(collector, f"00-{TRACE}-{CALLER}-01", share=0.0)
    assert collector.spans


def test_a_collector_that_does_not_answer_is_not_waited_for_at_the_end(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collector_module, "CLOSE_S", 0.1)
    collector.answers.clear()
    traces = open_traces("sinkserve-runtime", collector.endpoint, 1.0)
    for _ in range(3 * BATCH):
        traces.record(Span("chat demo@1", 100.0, 101.0))
    collector.wait_for("chat")
    traces.close()
    collector.answers.set()
    assert collector.asked == 1, "the batches that were left would each have waited as long"


def test_off_nothing_of_opentelemetry_is_imported() -> None:
    traces = open_traces("sinkserve-runtime", "", 1.0)
    assert isinstance(traces, NoTraces)
    traces.record(TREE)
    traces.close()
    code = "import sys, runtime_service.service, builder_service.service; sys.exit('opentelemetry.sdk' in sys.modules)"
    assert subprocess.run((sys.executable, "-c", code), check=False).returncode == 0


def test_without_the_sdk_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "common.tracing.collector", None)
    with pytest.raises(InvalidArgument, match=r"pip install 'sinkserve\[traces\]'"):
        open_traces("sinkserve-runtime", "http://127.0.0.1:4317", 1.0)
