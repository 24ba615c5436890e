from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from common.errors import InvalidArgument, Reason
from common.spec.checks import check_spec
from common.spec.model_spec import PRECISIONS, CacheGeometry, ModelSpec, Precision, Target
from common.spec.target_options import HardwareCompatibility, KvPrecision, TensorRtOptions

LEAST: dict[str, Any] = {"name": "demo", "source": {"uri": "/models/demo"}}
GPU: dict[str, Any] = {"target": "tensorrt", "precision": "bf16"}
INT4: dict[str, Any] = {"precision": "int4"}
RTX = {"target": "tensorrt_rtx", "precision": "bf16"}
RTX_GPUS = "spec.options.tensorrt_rtx.compute_capabilities"
BLOCK = "spec.options.onnxruntime.int4_block"
GPUS: dict[str, Any] = {"target": "tensorrt_llm", "precision": "bf16"}
COMPATIBILITY = "spec.options.tensorrt.hardware_compatibility"
FRACTION = "spec.options.tensorrt_llm.kv_memory_fraction"


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
        ({"target": "tensorrt", "precision": "keep"}, "spec.precision"),
        ({"source": {"uri": ""}}, "spec.source.uri"),
        ({"source": {}}, "spec.source.uri"),
        ({"name": None}, "spec.name"),
        ({"options": {"ignore_config_fields": [1]}}, "spec.options.ignore_config_fields.0"),
        ({"target": "tensorrt_llm"}, "spec.precision"),
        ({"target": "tensorrt_llm", "precision": "int8"}, "spec.precision"),
        (GPU | {"options": {"tensorrt": {"workspace_mib": -1}}}, "spec.options.tensorrt.workspace_mib"),
        (GPU | {"options": {"tensorrt": {"workspace_mib": 2**20 + 1}}}, "spec.options.tensorrt.workspace_mib"),
        (GPU | {"options": {"tensorrt": {"optimization_level": 6}}}, "spec.options.tensorrt.optimization_level"),
        (GPU | {"options": {"tensorrt": {"hardware_compatibility": "all"}}}, COMPATIBILITY),
        (GPUS | {"options": {"tensorrt_llm": {"tensor_parallel": 0}}}, "spec.options.tensorrt_llm.tensor_parallel"),
        (GPUS | {"options": {"tensorrt_llm": {"tensor_parallel": 65}}}, "spec.options.tensorrt_llm.tensor_parallel"),
        (GPUS | {"options": {"tensorrt_llm": {"pipeline_parallel": 0}}}, "spec.options.tensorrt_llm.pipeline_parallel"),
        (GPUS | {"options": {"tensorrt_llm": {"quantization": "fp8"}}}, "spec.options.tensorrt_llm.quantization"),
        (GPUS | {"options": {"tensorrt_llm": {"kv_memory_fraction": 0}}}, FRACTION),
        (GPUS | {"options": {"tensorrt_llm": {"kv_memory_fraction": 1}}}, FRACTION),
        (GPUS | {"options": {"tensorrt_llm": {"kv_memory_fraction": float("nan")}}}, FRACTION),
        (GPUS | {"options": {"tensorrt_llm": {"stride_tokens": -1}}}, "spec.options.tensorrt_llm.stride_tokens"),
        (INT4 | {"options": {"onnxruntime": {"int4_block": 16}}}, BLOCK),
        (INT4 | {"options": {"onnxruntime": {"int4_block": 0}}}, BLOCK),
        (INT4 | {"options": {"onnxruntime": {"int4_block": "64"}}}, BLOCK),
        (INT4 | {"options": {"onnxruntime": {"int4_block": True}}}, BLOCK),
        ({"options": {"onnxruntime": {"int4_block": 64}}}, BLOCK),
        ({"precision": "int8", "options": {"onnxruntime": {"int4_block": 128}}}, BLOCK),
        (GPU | {"options": {"onnxruntime": {"int4_block": 128}}}, BLOCK),
        (GPUS | {"options": {"onnxruntime": {"int4_block": 128}}}, BLOCK),
        ({"options": {"tensorrt": {"workspace_mib": 512}}}, "spec.options.tensorrt.workspace_mib"),
        (GPUS | {"options": {"tensorrt": {"version_compatible": True}}}, "spec.options.tensorrt.version_compatible"),
        (GPU | {"options": {"tensorrt_llm": {"tensor_parallel": 2}}}, "spec.options.tensorrt_llm.tensor_parallel"),
        ({"options": {"tensorrt_rtx": {"compute_capabilities": ["sm89"]}}}, RTX_GPUS),
        (RTX | {"options": {"tensorrt_rtx": {"compute_capabilities": []}}}, RTX_GPUS),
        (RTX | {"options": {"tensorrt_rtx": {"compute_capabilities": ["8.6"]}}}, RTX_GPUS),
        (RTX | {"options": {"tensorrt_rtx": {"compute_capabilities": ["sm86", "sm100"]}}}, RTX_GPUS),
        (RTX | {"options": {"tensorrt_rtx": {"compute_capabilities": ["sm75", "sm86"]}}}, RTX_GPUS),
        (RTX | {"options": {"tensorrt": {"workspace_mib": 512}}}, "spec.options.tensorrt.workspace_mib"),
        (RTX | {"hardware": {"compute_capability": "8.6"}}, "spec.hardware"),
        (RTX | {"precision": "fp8"}, RTX_GPUS),
        (RTX | {"precision": "int4", "options": {"tensorrt_rtx": {"compute_capabilities": ["sm75"]}}}, RTX_GPUS),
        (RTX | {"options": {"tensorrt_rtx": {"int4_block": 64}}}, "spec.options.tensorrt_rtx.int4_block"),
        (GPU | {"options": {"tensorrt": {"int4_block": 128}}}, "spec.options.tensorrt.int4_block"),
        (GPU | INT4 | {"options": {"tensorrt": {"int4_block": 32}}}, "spec.options.tensorrt.int4_block"),
        (GPU | {"precision": "fp8", "hardware": {"compute_capability": "8.6"}}, "spec.hardware"),
        (GPU | {"precision": "bf16", "hardware": {"compute_capability": "7.5"}}, "spec.hardware"),
    ],
)
def test_what_is_wrong_is_named_by_its_path(change: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_spec(LEAST | change)
    assert caught.value.reason is Reason.INVALID_SPEC
    assert [violation.field for violation in caught.value.violations] == [field]
    assert field in caught.value.message


def test_tensorrt_rtx_names_its_gpus_in_order_and_each_once() -> None:
    assert check_spec(LEAST | RTX).options.tensorrt_rtx.compute_capabilities == ("sm86", "sm89", "sm120")
    asked = ["sm120", "sm75", "sm120"]
    spec = check_spec(LEAST | RTX | {"precision": "fp16", "options": {"tensorrt_rtx": {"compute_capabilities": asked}}})
    assert spec.options.tensorrt_rtx.compute_capabilities == ("sm75", "sm120")


def test_a_gpu_that_cannot_run_a_precision_is_named_with_what_it_can() -> None:
    options = {"tensorrt_rtx": {"compute_capabilities": ["sm75", "sm86"]}}
    with pytest.raises(InvalidArgument, match="sm75 cannot run precision fp32; leave it out, or build it in fp16"):
        check_spec(LEAST | RTX | {"precision": "fp32", "options": options})


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8", "int4", "fp8"])
def test_gpus_are_built_for_in_floats_and_in_few_bits(precision: str) -> None:
    spec = check_spec(LEAST | {"target": "tensorrt", "precision": precision})
    assert (spec.target, spec.precision) == (Target.TENSORRT, Precision(precision))
    able = {"tensorrt_rtx": {"compute_capabilities": ["sm89", "sm120"]}}
    assert check_spec(LEAST | RTX | {"precision": precision, "options": able}).precision is Precision(precision)


def test_a_precision_of_another_target_says_what_there_is() -> None:
    said = "'keep' is wrong: target tensorrt is built in one of fp32, fp16, bf16, int8, int4, fp8"
    with pytest.raises(InvalidArgument, match=said):
        check_spec(LEAST | {"target": "tensorrt", "precision": "keep"})


def test_a_gpu_that_is_asked_for_and_cannot_run_a_precision_is_named_with_the_first_that_can() -> None:
    said = "a GPU of 8.6 cannot run precision fp8, which needs 8.9 or newer"
    with pytest.raises(InvalidArgument, match=said):
        check_spec(LEAST | {"target": "tensorrt", "precision": "fp8", "hardware": {"compute_capability": "8.6"}})
    spec = check_spec(LEAST | {"target": "tensorrt", "precision": "fp8", "hardware": {"compute_capability": "10.0"}})
    assert spec.hardware.compute_capability == "10.0"


def test_a_target_without_the_default_precision_asks_for_one() -> None:
    with pytest.raises(InvalidArgument, match="'fp32' is wrong: target tensorrt_llm is built in one of fp16, bf16"):
        check_spec(LEAST | {"target": "tensorrt_llm"})


def test_a_target_takes_its_own_options() -> None:
    spec = check_spec(LEAST | GPU | {"options": {"tensorrt": {"hardware_compatibility": "ampere_plus"}}})
    assert spec.options.tensorrt.hardware_compatibility is HardwareCompatibility.AMPERE_PLUS
    assert spec.options.tensorrt.optimization_level == 3
    spec = check_spec(LEAST | GPUS | {"options": {"tensorrt_llm": {"quantization": "FP8", "tensor_parallel": 8}}})
    assert (spec.options.tensorrt_llm.quantization, spec.options.tensorrt_llm.tensor_parallel) == ("FP8", 8)


@pytest.mark.parametrize("block", [32, 64, 128])
def test_int4_takes_its_block(block: int) -> None:
    for target in ("onnxruntime", "tensorrt_rtx", *(["tensorrt"] if block != 32 else [])):
        spec = check_spec(LEAST | INT4 | {"target": target, "options": {target: {"int4_block": block}}})
        assert spec.int4_block == block


def test_a_block_is_refused_where_it_would_do_nothing_and_it_says_why() -> None:
    options = {"onnxruntime": {"int4_block": 64}, "tensorrt": {"workspace_mib": 9}}
    with pytest.raises(InvalidArgument) as caught:
        check_spec(LEAST | {"precision": "int8", "options": options})
    assert [(violation.field, violation.description) for violation in caught.value.violations] == [
        (
            "spec.options.tensorrt.workspace_mib",
            "9 is wrong: only target tensorrt takes it, and the target is onnxruntime",
        ),
        (BLOCK, "64 is wrong: only precision int4 takes it, and the precision is int8"),
    ]
    with pytest.raises(InvalidArgument, match="64 is wrong: only target onnxruntime takes it, and the target is"):
        check_spec(LEAST | GPU | {"options": {"onnxruntime": {"int4_block": 64}}})


def test_the_usual_block_may_be_said_anywhere() -> None:
    assert check_spec(LEAST | {"options": {"onnxruntime": {"int4_block": 32}}}) == check_spec(LEAST)


@pytest.mark.parametrize("precision", PRECISIONS[Target.ONNXRUNTIME])
def test_keys_and_values_may_be_int8_beside_any_weights(precision: Precision) -> None:
    spec = check_spec(LEAST | {"precision": precision, "options": {"onnxruntime": {"kv_precision": "int8"}}})
    assert spec.options.onnxruntime.kv_precision is KvPrecision.INT8


@pytest.mark.parametrize("target", sorted({*Target} - {Target.ONNXRUNTIME}))
def test_keys_and_values_of_other_targets_are_not_int8_and_it_says_why(target: Target) -> None:
    why = f"spec.options.onnxruntime.kv_precision: 'int8' is wrong: only target onnxruntime takes it.*{target}"
    with pytest.raises(InvalidArgument, match=why):
        check_spec(
            LEAST | {"target": target, "precision": "fp16", "options": {"onnxruntime": {"kv_precision": "int8"}}}
        )


def test_where_the_precision_is_wrong_the_block_is_not_held_against_it() -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_spec(LEAST | {"precision": "int3", "options": {"onnxruntime": {"int4_block": 64}}})
    assert [violation.field for violation in caught.value.violations] == ["spec.precision"]


def test_a_window_of_one_token_cannot_slide() -> None:
    data = {"name": "a", "source": {"uri": "/m"}, "target": "tensorrt_llm", "precision": "fp16"}
    with pytest.raises(InvalidArgument, match="at least 2 tokens") as caught:
        check_spec({**data, "cache": {"window_tokens": 1}})
    assert [violation.field for violation in caught.value.violations] == ["spec.cache"]
    assert check_spec({**data, "cache": {"window_tokens": 2}}).cache.window_tokens == 2


def test_options_of_another_target_are_all_named_and_it_says_why() -> None:
    options = {"tensorrt": {"optimization_level": 5, "hardware_compatibility": "ampere_plus"}}
    with pytest.raises(InvalidArgument) as caught:
        check_spec(LEAST | {"options": options | {"tensorrt_llm": {"stride_tokens": 9}}})
    assert [(violation.field, violation.description) for violation in caught.value.violations] == [
        (
            "spec.options.tensorrt.optimization_level",
            "5 is wrong: only target tensorrt takes it, and the target is onnxruntime",
        ),
        (COMPATIBILITY, "'ampere_plus' is wrong: only target tensorrt takes it, and the target is onnxruntime"),
        (
            "spec.options.tensorrt_llm.stride_tokens",
            "9 is wrong: only target tensorrt_llm takes it, and the target is onnxruntime",
        ),
    ]


def test_options_of_another_target_may_say_what_is_so_anyway() -> None:
    assert check_spec(LEAST | {"options": {"tensorrt": {"optimization_level": 3}}}) == check_spec(LEAST)


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
        ({"options": {"tensorrt": {"workspace": 1}}}, "did you mean workspace_mib"),
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
    parts: list[type[BaseModel]] = [ModelSpec]
    for part in parts:
        for name, field in part.model_fields.items():
            assert field.description, f"{part}.{name}"
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                parts.append(field.annotation)
    assert TensorRtOptions in parts


def test_a_template_variable_has_a_value_or_choices() -> None:
    spec = check_spec(
        LEAST | {"template_variables": {"enable_thinking": [True, False], "effort": "low", "n": [1, True]}}
    )
    assert spec.template_variables == {"enable_thinking": (True, False), "effort": "low", "n": (1, True)}
    assert ModelSpec.model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"a": [True]}, r"template_variables\.a: \[True\] is wrong: choices should be two or more different"),
        ({"a": [1, 1.0]}, "two or more different"),
        ({"a": [1, None]}, "two or more different"),
        ({"a": "red\x1b[31m"}, r"template_variables\.a: .* no control characters but line ends and tabs"),
        ({"a": ["x", "y\x00"]}, "different texts without control characters"),
        ({"a\u202e": 1}, "input should have no control characters"),
        ({"a": None}, "a text, a number, true or false, or a list of such choices"),
        ({name: [0, 1] for name in "abcde"}, "choices make 32 combinations; at most 16 are proven"),
    ],
)
def test_what_is_no_choice_is_refused(variables: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidArgument, match=said):
        check_spec(LEAST | {"template_variables": variables})
