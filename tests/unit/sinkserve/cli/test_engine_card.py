"""What `engines show` says of an engine, from its manifest."""

from __future__ import annotations

from sinkserve.cli.engine_card import facts
from sinkserve.engine.v1.engine_pb2 import Engine, EngineManifest


def test_an_engine_says_what_its_sinks_get_where_the_build_measured_it() -> None:
    figures = {"sink_attention": 0.323, "sink_attention_largest": 0.82, "sink_attention_even": 0.0625}
    measured, not_measured = (dict(facts(Engine(manifest=EngineManifest(verification=f)))) for f in (figures, {}))
    assert measured["sinks get"] == "32% of the attention, 82% in one layer; 6.2% if all tokens got the same"
    assert not not_measured["sinks get"]


def test_an_engine_says_what_it_was_verified_on() -> None:
    assert dict(facts(Engine(manifest=EngineManifest(verified_on="cpu stand-in"))))["verified on"] == "cpu stand-in"
