"""A manifest's bytes are a function of what it says, to the last bit."""

from __future__ import annotations

import hashlib
import json
import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.digest import digest_of
from common.spec.manifest import GenerationDefaults, Manifest, Rope
from common.window import Geometry
from tests.samples.whole_manifests import HARDWARE, TEMPLATE, make_manifest

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.text(st.characters(codec="utf-8"))


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    hardware, template = draw(st.sampled_from([(None, None), (HARDWARE, TEMPLATE)]))
    made = make_manifest(Geometry(4, draw(st.integers(1, 99)), 8, 2), template=template, hardware=hardware)
    changes = {
        "rope": Rope(inverse_frequencies=tuple(draw(st.lists(NUMBERS))), attention_scale=draw(NUMBERS)),
        "generation": GenerationDefaults(temperature=draw(st.none() | NUMBERS)),
        "verification": draw(st.dictionaries(TEXTS, NUMBERS)),
        "tool_versions": draw(st.dictionaries(TEXTS, TEXTS)),
        "warnings": tuple(draw(st.lists(TEXTS))),
    }
    return made.model_copy(update=changes)


def _shuffled(value: Any, order: random.Random) -> Any:
    """The same JSON with the keys of every object in another order."""
    if isinstance(value, list):
        return [_shuffled(item, order) for item in value]
    if not isinstance(value, dict):
        return value
    keys = list(value)
    order.shuffle(keys)
    return {key: _shuffled(value[key], order) for key in keys}


@given(manifests(), st.randoms(use_true_random=False))
def test_the_order_in_which_fields_were_given_does_not_matter(manifest: Manifest, order: random.Random) -> None:
    turned = Manifest.model_validate(_shuffled(manifest.model_dump(mode="json"), order))
    assert turned == manifest
    assert turned.canonical() == manifest.canonical()


@given(manifests())
def test_a_manifest_comes_back_from_its_bytes_and_gives_them_again(manifest: Manifest) -> None:
    stored = manifest.canonical()
    read = Manifest.model_validate_json(stored)
    assert read == manifest
    assert read.canonical() == stored
    assert digest_of(stored) == "sha256:" + hashlib.sha256(stored).hexdigest()


@given(manifests())
def test_the_bytes_are_json_that_any_reader_takes(manifest: Manifest) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    data = json.loads(manifest.canonical(), parse_constant=refuse)
    assert data["rope"]["inverse_frequencies"] == list(manifest.rope.inverse_frequencies)


@given(manifests(), manifests())
def test_manifests_that_differ_have_other_bytes(one: Manifest, other: Manifest) -> None:
    assert one == other or one.canonical() != other.canonical()


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan])
def test_a_number_that_json_does_not_have_is_never_stored(number: float) -> None:
    manifest = make_manifest(Geometry(4, 8, 8, 2)).model_copy(update={"verification": {"error": number}})
    with pytest.raises(ValueError, match="not JSON compliant"):
        manifest.canonical()
