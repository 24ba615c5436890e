from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InvalidArgument
from common.manifest import Manifest, TextModel, TurnTemplate
from common.published_engine import PublishedEngine
from common.spec import PRECISIONS, BuildOptions, CacheGeometry, ModelSpec, Precision, Source, Target
from common.wire import engine_to_wire, manifest_to_wire, spec_from_wire, spec_to_wire
from sinkserve.engine.v1 import engine_pb2
from tests.drafts import draft

TARGETS = st.sampled_from([(target, precision) for target in Target for precision in PRECISIONS[target]])
SPECS = st.builds(
    lambda kind, **fields: ModelSpec(target=kind[0], precision=kind[1], **fields),
    kind=TARGETS,
    name=st.from_regex(r"\A[a-z0-9][a-z0-9._-]{0,62}\Z"),
    source=st.builds(Source, uri=st.text(st.characters(codec="utf-8"), min_size=1)),
    cache=st.builds(
        CacheGeometry,
        sink_tokens=st.integers(0, 1_000_000),
        window_tokens=st.integers(1, 1_000_000),
        chunk_tokens=st.integers(1, 4096),
        max_slots=st.integers(1, 1024),
    ),
    chat_template=st.text(st.characters(codec="utf-8")),
    options=st.builds(BuildOptions, ignore_config_fields=st.tuples(st.text(st.characters(codec="utf-8"), min_size=1))),
)


@given(SPECS)
def test_a_spec_survives_the_wire(spec: ModelSpec) -> None:
    sent = spec_to_wire(spec).SerializeToString()
    assert spec_from_wire(engine_pb2.ModelSpec.FromString(sent)) == spec


def test_what_is_unset_has_its_default() -> None:
    message = engine_pb2.ModelSpec(name="demo", source=engine_pb2.Source(uri="/m"))
    assert spec_from_wire(message) == ModelSpec(name="demo", source=Source(uri="/m"))


def test_a_cache_that_is_given_is_given_whole() -> None:
    message = engine_pb2.ModelSpec(name="demo", source=engine_pb2.Source(uri="/m"))
    message.cache.sink_tokens = 4
    with pytest.raises(InvalidArgument) as caught:
        spec_from_wire(message)
    assert [violation.field for violation in caught.value.violations] == [
        "spec.cache.window_tokens",
        "spec.cache.chunk_tokens",
        "spec.cache.max_slots",
    ]


def test_an_empty_spec_names_what_is_missing() -> None:
    with pytest.raises(InvalidArgument) as caught:
        spec_from_wire(engine_pb2.ModelSpec())
    assert {violation.field for violation in caught.value.violations} == {"spec.name", "spec.source.uri"}


def test_a_value_of_a_newer_protocol_is_refused() -> None:
    message = engine_pb2.ModelSpec(name="demo", source=engine_pb2.Source(uri="/m"))
    message.ParseFromString(message.SerializeToString() + b"\x20\x63")  # precision = 99
    with pytest.raises(InvalidArgument, match=r"spec\.precision: '99'"):
        spec_from_wire(message)


def test_every_word_has_its_number() -> None:
    for enum, words, prefix in ((engine_pb2.Target, Target, "TARGET"), (engine_pb2.Precision, Precision, "PRECISION")):
        assert {name for name, _ in enum.items() if not name.endswith("UNSPECIFIED")} == {
            f"{prefix}_{word.name}" for word in words
        }


def test_an_engine_goes_out_whole() -> None:
    manifest = draft().model_copy(update={"version": 3})
    engine = PublishedEngine(manifest, "sha256:" + "0" * 64, datetime(2026, 1, 2, tzinfo=UTC), ("latest", "prod"))
    message = engine_to_wire(engine)
    assert (message.reference, message.version, message.digest) == ("demo@3", 3, engine.digest)
    assert list(message.aliases) == ["latest", "prod"]
    assert message.create_time.ToDatetime(UTC) == engine.create_time
    assert message.size_bytes == 5
    assert spec_from_wire(message.spec) == manifest.spec
    assert message.manifest.files[0].digest == manifest.files[0].digest
    assert message.manifest.verification == manifest.verification


def _with_text(manifest: Manifest) -> Manifest:
    nothing: dict[str, Any] = dict.fromkeys(
        ("opening", "user_before", "user_after", "assistant_before", "assistant_after"), ()
    )
    text = TextModel(template=TurnTemplate(system_before=None, **nothing))
    return manifest.model_copy(update={"text": text})


def test_a_manifest_says_whether_it_takes_text() -> None:
    assert not manifest_to_wire(draft()).accepts_text
    assert manifest_to_wire(_with_text(draft())).accepts_text


def test_no_field_of_the_wire_is_forgotten() -> None:
    message = manifest_to_wire(_with_text(draft()).model_copy(update={"warnings": ("look out",)}))
    assert {field.name for field, _ in message.ListFields()} == {field.name for field in message.DESCRIPTOR.fields}
