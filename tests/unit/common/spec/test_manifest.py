from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from common.spec.manifest import Manifest
from tests.samples.drafts import draft
from tests.samples.whole_manifests import HARDWARE


def test_equal_manifests_have_equal_bytes_whatever_the_order() -> None:
    manifest = draft().model_copy(update={"tool_versions": {"a": "1", "b": "2"}})
    turned = draft().model_copy(update={"tool_versions": {"b": "2", "a": "1"}})
    assert manifest.canonical() == turned.canonical()


def test_canonical_bytes_are_sorted_and_without_blanks() -> None:
    text = draft().canonical().decode()
    assert text.startswith('{"architecture":{"family":"llama","head_dim":8,"heads":4,')
    keys = list(json.loads(text))
    assert keys == sorted(keys)


def test_a_manifest_is_read_as_it_was_written() -> None:
    manifest = draft().model_copy(update={"warnings": ("Grüße",)})
    assert Manifest.model_validate_json(manifest.canonical()) == manifest
    assert Manifest.model_validate_json(manifest.canonical()).canonical() == manifest.canonical()


def test_numbers_survive_to_the_last_bit() -> None:
    frequencies = tuple(10000.0 ** (-i / 7) for i in range(32))
    manifest = draft()
    rope = manifest.rope.model_copy(update={"inverse_frequencies": frequencies})
    read = Manifest.model_validate_json(manifest.model_copy(update={"rope": rope}).canonical())
    assert read.rope.inverse_frequencies == frequencies


@pytest.mark.parametrize(("key", "value"), [("format", 2), ("surprise", 1), ("build_key", "md5:0"), ("version", "x")])
def test_a_manifest_that_this_program_does_not_know_is_refused(key: str, value: object) -> None:
    data = json.loads(draft().canonical()) | {key: value}
    with pytest.raises(ValidationError, match=key):
        Manifest.model_validate(data)


def test_a_manifest_knows_its_cache_its_size_and_its_reference() -> None:
    manifest = draft(files={"a": b"123", "b": b"45"}).model_copy(update={"version": 7})
    assert manifest.size_bytes == 5
    assert manifest.reference == "demo@7"
    assert (manifest.geometry.sinks, manifest.geometry.window, manifest.geometry.slots) == (4, 1020, 8)


def test_hardware_survives_and_a_manifest_from_before_there_was_any_needs_none() -> None:
    manifest = draft().model_copy(update={"hardware": HARDWARE})
    assert Manifest.model_validate_json(manifest.canonical()) == manifest
    data = json.loads(manifest.canonical())
    del data["hardware"], data["spec"]["options"]["tensorrt"], data["spec"]["options"]["tensorrt_llm"]
    assert Manifest.model_validate(data) == draft()
