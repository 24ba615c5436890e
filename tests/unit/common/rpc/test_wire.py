from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.controls import is_name
from common.errors import InvalidArgument
from common.rpc.wire import engine_to_wire, manifest_to_wire, spec_from_wire, spec_to_wire
from common.spec.hardware import Hardware
from common.spec.manifest import Manifest, TextModel, TurnTemplate
from common.spec.model_spec import (
    PRECISIONS,
    BuildOptions,
    CacheGeometry,
    ModelSpec,
    Precision,
    Source,
    Target,
    TargetHardware,
)
from common.spec.published_engine import PublishedEngine
from common.spec.rtx_gpus import RTX_GPUS, TensorRtRtxOptions, unable
from common.spec.target_options import (
    HardwareCompatibility,
    KvPrecision,
    OnnxRuntimeOptions,
    TensorRtLlmOptions,
    TensorRtOptions,
)
from sinkserve.engine.v1 import engine_pb2
from tests.samples.drafts import draft
from tests.samples.whole_manifests import HARDWARE

ANYWHERE = HARDWARE.model_copy(
    update={
        "hardware_compatibility": HardwareCompatibility.AMPERE_PLUS,
        "version_compatible": True,
        "compute_capabilities": ("8.6",),
    }
)
TARGETS = st.sampled_from([(target, precision) for target in Target for precision in PRECISIONS[target]])
NAMES = st.characters(codec="utf-8").filter(is_name)
FIELDS = st.tuples(st.text(st.characters(codec="utf-8"), min_size=1))
OPTIONS: dict[Target, st.SearchStrategy[BuildOptions]] = {
    Target.ONNXRUNTIME: st.builds(BuildOptions, ignore_config_fields=FIELDS),
    Target.TENSORRT: st.builds(
        BuildOptions,
        tensorrt=st.builds(
            TensorRtOptions,
            workspace_mib=st.integers(0, 1 << 20),
            optimization_level=st.integers(0, 5),
            hardware_compatibility=st.sampled_from(HardwareCompatibility),
            version_compatible=st.booleans(),
        ),
    ),
    Target.TENSORRT_RTX: st.builds(
        BuildOptions,
        tensorrt_rtx=st.builds(
            TensorRtRtxOptions,
            compute_capabilities=st.sets(
                st.sampled_from([name for name in RTX_GPUS if not unable((name,), "fp8")]), min_size=1
            ).map(tuple),
        ),
    ),
    Target.TENSORRT_LLM: st.builds(
        BuildOptions,
        tensorrt_llm=st.builds(
            TensorRtLlmOptions,
            tensor_parallel=st.integers(1, 64),
            pipeline_parallel=st.integers(1, 64),
            quantization=st.sampled_from(["", "FP8", "W4A16_AWQ", "W8A16", "NVFP4"]),
            kv_memory_fraction=st.floats(0, 1, exclude_min=True, exclude_max=True),
            stride_tokens=st.integers(0, 1_000_000),
        ),
    ),
}
IN_BLOCKS = (Target.ONNXRUNTIME, Precision.INT4)
INT4_OPTIONS = st.builds(
    BuildOptions,
    ignore_config_fields=FIELDS,
    onnxruntime=st.builds(
        OnnxRuntimeOptions, int4_block=st.sampled_from([32, 64, 128]), kv_precision=st.sampled_from(KvPrecision)
    ),
)
HARDWARE_OF = {Target.TENSORRT: st.builds(TargetHardware, compute_capability=st.sampled_from(["", "9.0", "12.1"]))}


@st.composite
def specs(draw: st.DrawFn) -> ModelSpec:
    target, precision = draw(TARGETS)
    return ModelSpec(
        name=draw(st.from_regex(r"\A[a-z0-9][a-z0-9._-]{0,62}\Z")),
        source=Source(
            uri=draw(st.text(NAMES, min_size=1)),
            revision=draw(st.text(NAMES)),
        ),
        target=target,
        precision=precision,
        cache=CacheGeometry(
            sink_tokens=draw(st.integers(0, 1_000_000)),
            window_tokens=draw(st.integers(2, 1_000_000)),
            chunk_tokens=draw(st.integers(1, 4096)),
            max_slots=draw(st.integers(1, 1024)),
        ),
        chat_template=draw(st.text(st.characters(codec="utf-8"))),
        template_variables=draw(
            st.sampled_from([{}, {"a": True, "b": "x", "c": 0.5}, {"a": (True, False), "b": (1, 2.5, "x"), "c": -3}])
        ),
        options=draw(INT4_OPTIONS if (target, precision) == IN_BLOCKS else OPTIONS[target]),
        hardware=draw(HARDWARE_OF.get(target, st.just(TargetHardware()))),
    )


@given(specs())
def test_a_spec_survives_the_wire(spec: ModelSpec) -> None:
    sent = spec_to_wire(spec).SerializeToString()
    assert spec_from_wire(engine_pb2.ModelSpec.FromString(sent)) == spec


def test_what_is_unset_has_its_default() -> None:
    message = engine_pb2.ModelSpec(name="demo", source=engine_pb2.Source(uri="/m"))
    assert spec_from_wire(message) == ModelSpec(name="demo", source=Source(uri="/m"))


def test_a_precision_that_nobody_asked_for_is_not_claimed() -> None:
    """It is left to the checkpoint; neither the wire nor the queue's rows, which are JSON, say one before."""
    source = Source(uri="/models/a")
    open_, said = ModelSpec(name="a", source=source), ModelSpec(name="a", source=source, precision=Precision.FP32)
    for spec in (open_, said):
        back = (spec_from_wire(spec_to_wire(spec)), ModelSpec.model_validate_json(spec.model_dump_json()))
        assert [each.says_precision for each in back] == [spec is said] * 2
        assert [each.precision for each in back] == [Precision.FP32] * 2


def test_an_option_that_is_unset_has_its_default_and_one_that_is_zero_is_zero() -> None:
    message = engine_pb2.ModelSpec(name="demo", source=engine_pb2.Source(uri="/m"), target=engine_pb2.TARGET_TENSORRT)
    message.options.tensorrt.workspace_mib = 512
    assert spec_from_wire(message).options.tensorrt == TensorRtOptions(workspace_mib=512)
    message.options.tensorrt.optimization_level = 0
    assert spec_from_wire(message).options.tensorrt == TensorRtOptions(workspace_mib=512, optimization_level=0)


def test_a_block_that_is_unset_is_the_default_and_another_number_is_refused() -> None:
    message = engine_pb2.ModelSpec(name="demo", source=engine_pb2.Source(uri="/m"), precision=engine_pb2.PRECISION_INT4)
    message.options.onnxruntime.SetInParent()
    assert spec_from_wire(message).options.onnxruntime == OnnxRuntimeOptions(int4_block=32)
    message.options.onnxruntime.int4_block = 16
    with pytest.raises(InvalidArgument, match=r"spec\.options\.onnxruntime\.int4_block: 16 is wrong.*32, 64 or 128"):
        spec_from_wire(message)


def test_a_precision_of_keys_and_values_goes_both_ways() -> None:
    message = engine_pb2.ModelSpec(name="demo", source=engine_pb2.Source(uri="/m"))
    assert spec_from_wire(message).options.onnxruntime.kv_precision is KvPrecision.FLOAT32
    message.options.onnxruntime.kv_precision = engine_pb2.KV_PRECISION_INT8
    spec = spec_from_wire(message)
    assert spec.options.onnxruntime.kv_precision is KvPrecision.INT8
    assert spec_to_wire(spec).options.onnxruntime.kv_precision == engine_pb2.KV_PRECISION_INT8
    message.options.onnxruntime.kv_precision = 7  # type: ignore[assignment]  # of a newer protocol
    with pytest.raises(InvalidArgument, match=r"spec\.options\.onnxruntime\.kv_precision: '7' is wrong.*'int8'"):
        spec_from_wire(message)


def test_a_block_for_gpus_goes_both_ways_beside_what_they_are() -> None:
    message = engine_pb2.ModelSpec(name="demo", source=engine_pb2.Source(uri="/m"), precision=engine_pb2.PRECISION_INT4)
    message.target = engine_pb2.TARGET_TENSORRT_RTX
    message.options.tensorrt_rtx.compute_capabilities.append("sm89")
    assert spec_from_wire(message).int4_block == 32
    message.options.tensorrt_rtx.int4_block = 128
    spec = spec_from_wire(message)
    assert (spec.int4_block, spec.options.tensorrt_rtx.compute_capabilities) == (128, ("sm89",))
    assert spec_to_wire(spec).options.tensorrt_rtx == message.options.tensorrt_rtx
    message.options.ClearField("tensorrt_rtx")
    message.target, message.options.tensorrt.int4_block = engine_pb2.TARGET_TENSORRT, 128
    assert spec_to_wire(spec_from_wire(message)).options.tensorrt.int4_block == 128


def test_a_share_of_zero_is_not_taken_for_unset() -> None:
    message = engine_pb2.ModelSpec(name="demo", source=engine_pb2.Source(uri="/m"))
    message.target, message.precision = engine_pb2.TARGET_TENSORRT_LLM, engine_pb2.PRECISION_BF16
    message.options.tensorrt_llm.kv_memory_fraction = 0
    with pytest.raises(InvalidArgument, match=r"spec\.options\.tensorrt_llm\.kv_memory_fraction: 0\.0 is wrong"):
        spec_from_wire(message)


def test_an_option_of_a_newer_protocol_is_refused() -> None:
    message = engine_pb2.ModelSpec(name="demo", source=engine_pb2.Source(uri="/m"), target=engine_pb2.TARGET_TENSORRT)
    message.options.tensorrt.MergeFromString(b"\x18\x63")  # hardware_compatibility = 99
    with pytest.raises(InvalidArgument, match=r"spec\.options\.tensorrt\.hardware_compatibility: '99'"):
        spec_from_wire(message)


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
    for enum, words, prefix in (
        (engine_pb2.Target, Target, "TARGET"),
        (engine_pb2.Precision, Precision, "PRECISION"),
        (engine_pb2.HardwareCompatibility, HardwareCompatibility, "HARDWARE_COMPATIBILITY"),
    ):
        assert {name for name, _ in enum.items() if not name.endswith("UNSPECIFIED")} == {
            f"{prefix}_{word.name}" for word in words
        }


def test_an_engine_goes_out_whole() -> None:
    manifest = draft().model_copy(update={"version": 3, "verified_on": "cpu"})
    engine = PublishedEngine(manifest, "sha256:" + "0" * 64, datetime(2026, 1, 2, tzinfo=UTC), ("latest", "prod"))
    message = engine_to_wire(engine)
    assert (message.reference, message.version, message.digest) == ("demo@3", 3, engine.digest)
    assert list(message.aliases) == ["latest", "prod"]
    assert message.create_time.ToDatetime(UTC) == engine.create_time
    assert message.size_bytes == 5
    assert spec_from_wire(message.spec) == manifest.spec
    assert message.manifest.files[0].digest == manifest.files[0].digest
    assert message.manifest.verification == manifest.verification
    assert message.manifest.verified_on == "cpu"


def _with_text(manifest: Manifest) -> Manifest:
    nothing: dict[str, Any] = dict.fromkeys(
        ("opening", "user_before", "user_after", "assistant_before", "assistant_after"), ()
    )
    text = TextModel(template=TurnTemplate(system_before=None, **nothing))
    return manifest.model_copy(update={"text": text})


def test_a_manifest_says_whether_it_takes_text() -> None:
    assert not manifest_to_wire(draft()).accepts_text
    assert manifest_to_wire(_with_text(draft())).accepts_text


def test_a_manifest_says_what_hardware_it_needs_if_it_does() -> None:
    assert not manifest_to_wire(draft()).HasField("hardware")
    message = manifest_to_wire(draft().model_copy(update={"hardware": ANYWHERE})).hardware
    assert message == engine_pb2.Hardware(
        gpu="NVIDIA H200",
        compute_capability="9.0",
        tensorrt_version="11.4.0.106",
        cuda_version="13.0",
        hardware_compatibility=engine_pb2.HARDWARE_COMPATIBILITY_AMPERE_PLUS,
        version_compatible=True,
        platform="linux-x86_64",
        compute_capabilities=["8.6"],
    )
    assert {field.name for field, _ in message.ListFields()} == set(Hardware.model_fields)


def test_no_field_of_the_wire_is_forgotten() -> None:
    filled = {"warnings": ("look out",), "hardware": ANYWHERE, "network": {"MATRIX_MULTIPLY": 3}, "verified_on": "cpu"}
    manifest = _with_text(draft()).model_copy(update=filled)
    message = manifest_to_wire(manifest)
    assert {field.name for field, _ in message.ListFields()} == {field.name for field in message.DESCRIPTOR.fields}
