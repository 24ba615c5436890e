"""Engines from GGUF files: in every precision, and with the file's own weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from gguf import GGMLQuantizationType

from builder_service.checkpoint.checkpoint import FloatArray
from builder_service.graph.linear import LINEAR
from builder_service.verify.second.gguf import SecondGguf
from common.errors import FailedPrecondition, InvalidArgument, Reason
from common.spec.manifest import GOLDEN_PATH, TOKENIZER_PATH, Manifest
from common.spec.model_spec import ModelSpec, Precision, Source, Target
from tests.nightly import LONG, by_turns, one_in
from tests.samples.checkpoints import write_checkpoint
from tests.samples.families import write_family
from tests.samples.gguf.blocks import Types, matrices_in
from tests.samples.gguf.files import write_gguf
from tests.unit.builder_service.pipeline.builds import built
from tests.unit.builder_service.pipeline.listener import Listener

Q = GGMLQuantizationType


def _mixture(name: str) -> GGMLQuantizationType:
    """Types as llama.cpp mixes them: parts of a fused matrix differ, and one is float16."""
    if name.endswith("attn_v.weight"):
        return Q.Q6_K
    if name.endswith("ffn_down.weight"):
        return Q.F16
    return matrices_in(Q.Q4_K, Q.Q6_K)(name)


TYPES: Mapping[str, Types] = {
    "Q4_0": matrices_in(Q.Q4_0, Q.Q4_0),
    "Q4_1": matrices_in(Q.Q4_1, Q.Q8_0),
    "Q5_1": matrices_in(Q.Q5_1, Q.Q5_1),
    "Q8_0": matrices_in(Q.Q8_0, Q.F16),
    "IQ4_NL": matrices_in(Q.IQ4_NL, Q.Q4_1),
    "mixture": _mixture,
}


def _file(tmp_path: Path, types: Types, *, tied: bool = True) -> Path:
    folder = write_checkpoint(tmp_path / "folder", hidden=256, intermediate=256, layers=2, tied=tied, bias=True)
    return write_gguf(tmp_path / "model.gguf", folder, types)


@pytest.mark.parametrize("precision", one_in(len(LINEAR), LINEAR, LONG))
def test_a_gguf_becomes_an_engine_in_any_precision(tmp_path: Path, precision: Precision) -> None:
    manifest = built(_file(tmp_path, matrices_in(Q.Q4_1, Q.Q8_0)), precision=precision)
    assert [file.path for file in manifest.source_files] == ["model.gguf"]
    assert TOKENIZER_PATH in {file.path for file in manifest.files}
    assert manifest.text is not None
    assert manifest.end_token_ids == (1, 4)
    assert manifest.tool_versions["gguf"]


@pytest.mark.parametrize(("types", "tied"), by_turns(TYPES, [True, False]))
def test_its_own_weights_are_kept_unless_the_spec_says_otherwise(tmp_path: Path, types: str, tied: bool) -> None:
    parent = Listener()
    manifest = built(_file(tmp_path, TYPES[types], tied=tied), parent)
    assert manifest.spec.precision is Precision.KEEP
    assert manifest.verification["margin"] >= 2
    assert parent.needs is not None
    assert parent.needs.weight_bytes == pytest.approx(manifest.weight_bytes, rel=0.2)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("qwen3-moe", {"moe_intermediate_size": 32}), ("gemma3", {"query_pre_attn_scalar": 16})],
)
def test_what_cannot_be_multiplied_in_blocks_is_float_beside_what_can(
    tmp_path: Path, name: str, sizes: dict[str, int]
) -> None:
    """Experts, and norms that a file stores otherwise than a checkpoint."""
    whole = {"hidden_size": 64, "intermediate_size": 64, "head_dim": 16} | sizes
    path = write_gguf(
        tmp_path / "model.gguf", write_family(tmp_path / "folder", name, **whole), matrices_in(Q.Q4_1, Q.Q8_0)
    )
    assert built(path).verification["margin"] >= 2


def test_a_file_of_floats_becomes_what_fp32_is(tmp_path: Path) -> None:
    path = _file(tmp_path, matrices_in(Q.F32))
    kept, floats = built(path), built(path, precision=Precision.FP32)
    assert _engine_digests(kept) == _engine_digests(floats)


def _engine_digests(manifest: Manifest) -> set[str]:
    """Of what computes; the bounds of golden streams are those of the precision that was asked for."""
    return {file.digest for file in manifest.files if file.path != GOLDEN_PATH}


class _Scaled(SecondGguf):
    """A reading that errs in one matrix."""

    def blocks(self, name: str) -> Iterator[FloatArray]:
        factor = 1.02 if name == "model.layers.1.mlp.up_proj.weight" else 1
        return (factor * block for block in super().blocks(name))


def test_a_wrong_scale_is_not_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, second = _file(tmp_path, _mixture), "builder_service.verify.second.gguf.SecondGguf"
    monkeypatch.setattr(second, _Scaled)
    with pytest.raises(FailedPrecondition, match="feed-forward of layer 1"):
        built(path)


@pytest.mark.parametrize(
    ("write", "words", "reason"),
    [
        (
            lambda tmp_path: write_checkpoint(tmp_path / "folder"),
            "keep is for checkpoints whose weights are quantized",
            Reason.INVALID_SPEC,
        ),
        (
            lambda tmp_path: _file(tmp_path, matrices_in(Q.IQ2_XS)),
            r"blk\.0\.attn_q\.weight in model\.gguf is IQ2_XS, which cannot be kept",
            Reason.CHECKPOINT_INVALID,
        ),
    ],
)
def test_what_cannot_be_kept_says_what_to_do(
    tmp_path: Path, write: Callable[[Path], Path], words: str, reason: Reason
) -> None:
    parent = Listener()
    with pytest.raises(InvalidArgument, match=words) as caught:
        built(write(tmp_path), parent, precision=Precision.KEEP)
    assert caught.value.reason is reason


def test_a_runtime_that_reads_checkpoints_itself_reads_no_gguf(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"needs it in a folder, not .*model\.gguf"):
        built(_file(tmp_path, matrices_in(Q.Q4_0)), target=Target.TENSORRT_LLM, precision=Precision.BF16)


def test_only_of_a_gguf_for_onnxruntime_keep_is_the_default() -> None:
    def precision(uri: str, **fields: object) -> Precision:
        return ModelSpec.model_validate({"name": "a", "source": {"uri": uri}, **fields}).precision

    assert precision("/models/x.GGUF") is Precision.KEEP
    assert precision("/models/x.gguf", precision="int8") is Precision.INT8
    assert precision("/models/x") is Precision.FP32
    assert ModelSpec(name="a", source=Source(uri="/x.gguf")).precision is Precision.KEEP
    assert precision("/x.gguf", target="tensorrt") is Precision.FP32
    assert ModelSpec(name="a", source=Source(uri="/x.gguf"), target=Target.TENSORRT).precision is Precision.FP32
