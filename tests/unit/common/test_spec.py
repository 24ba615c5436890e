from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from common.errors import InvalidArgument, Reason
from common.spec import CacheGeometry, ModelSpec, Precision, Target
from common.spec_check import check_spec

LEAST: dict[str, Any] = {"name": "demo", "source": {"uri": "/models/demo"}}


def test_a_name_and_a_source_are_enough() -> None:
    spec = check_spec(LEAST)
    assert spec.target is Target.ONNXRUNTIME
    assert spec.precision is Precision.FP32
    assert spec.cache == CacheGeometry(sink_tokens=4, window_tokens=1020, chunk_tokens=64, max_slots=8)


def test_a_spec_never_changes() -> None:
    with pytest.raises(ValidationError):
        check_spec(LEAST).name = "other"  # type: ignore[misc]


@pytest.mark.parametrize("name", ["a", "tiny-llama-1.1b", "0", "x_y.z", "a" * 63])
def test_names_that_fit(name: str) -> None:
    assert check_spec(LEAST | {"name": name}).name == name


@pytest.mark.parametrize("name", ["", "A", ".a", "-a", "a b", "a/b", "a@1", "a:b", "a" * 64, "a\n", "ä"])
def test_names_that_do_not_fit(name: str) -> None:
    with pytest.raises(InvalidArgument, match=r"spec\.name"):
        check_spec(LEAST | {"name": name})


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"cache": {"window_tokens": 0}}, "spec.cache.window_tokens"),
        ({"cache": {"sink_tokens": -1}}, "spec.cache.sink_tokens"),
        ({"cache": {"chunk_tokens": 0}}, "spec.cache.chunk_tokens"),
        ({"cache": {"max_slots": 0}}, "spec.cache.max_slots"),
        ({"cache": {"window_tokens": "many"}}, "spec.cache.window_tokens"),
        ({"cache": 7}, "spec.cache"),
        ({"precision": "fp8"}, "spec.precision"),
        ({"target": "cuda"}, "spec.target"),
        ({"precision": "fp16"}, "spec.precision"),
        ({"target": "tensorrt", "precision": "int8"}, "spec.precision"),
        ({"source": {"uri": ""}}, "spec.source.uri"),
        ({"source": {}}, "spec.source.uri"),
        ({"name": None}, "spec.name"),
        ({"options": {"ignore_config_fields": [1]}}, "spec.options.ignore_config_fields.0"),
    ],
)
def test_what_is_wrong_is_named_by_its_path(change: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_spec(LEAST | change)
    assert caught.value.reason is Reason.INVALID_SPEC
    assert [violation.field for violation in caught.value.violations] == [field]
    assert field in caught.value.message


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_tensorrt_is_built_in_floats(precision: str) -> None:
    spec = check_spec(LEAST | {"target": "tensorrt", "precision": precision})
    assert (spec.target, spec.precision) == (Target.TENSORRT, Precision(precision))


def test_a_precision_of_another_target_says_what_there_is() -> None:
    with pytest.raises(InvalidArgument, match=r"'int4' is wrong: target tensorrt is built in one of fp32, fp16, bf16"):
        check_spec(LEAST | {"target": "tensorrt", "precision": "int4"})


def test_everything_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_spec({"name": "A", "source": {"uri": ""}, "cache": {"window_tokens": 0, "max_slots": 0}})
    assert len(caught.value.violations) == 4


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"precison": "int8"}, "did you mean precision"),
        ({"cache": {"windows_tokens": 5}}, "did you mean window_tokens"),
        ({"quite_another": 1}, "known are name, source"),
    ],
)
def test_an_unknown_field_is_an_error_with_a_suggestion(change: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidArgument, match=said):
        check_spec(LEAST | change)


def test_a_value_too_long_to_show_is_cut() -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_spec(LEAST | {"name": "x" * 10_000})
    assert len(caught.value.message) < 500


def test_every_field_is_documented() -> None:
    parts = (ModelSpec, *(field.annotation for field in ModelSpec.model_fields.values()))
    for part in parts:
        for name, field in getattr(part, "model_fields", {}).items():
            assert field.description, f"{part}.{name}"
