"""What other programs read of a measurement."""

from __future__ import annotations

import json
import math

from sinkserve.evaluation.report import document, dump
from sinkserve.evaluation.speed import Speed, SpeedRow
from sinkserve.evaluation.streameval import Accuracy


def test_properties_are_told_and_what_is_no_number_is_null() -> None:
    measured = Speed(
        "demo@1", 2, (SpeedRow(256, 2.0, 30.0, 64), SpeedRow(512, 1.0, math.nan, 64)), {"1024": "too large"}
    )
    assert document(measured) == {
        "engine": "demo@1",
        "threads": 2,
        "rows": [
            {"cache_tokens": 256, "sinks_ms": 2.0, "recompute_ms": 30.0, "chunk": 64, "ratio": 15.0},
            {"cache_tokens": 512, "sinks_ms": 1.0, "recompute_ms": None, "chunk": 64, "ratio": None},
        ],
        "skipped": {"1024": "too large"},
    }
    assert json.loads(dump(measured)) == document(measured)


def test_a_share_of_nothing_is_none() -> None:
    assert document(Accuracy(0, 0, 0))["share"] is None
    assert document(Accuracy(1, 2, 4))["share"] == 0.25
