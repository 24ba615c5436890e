"""A spec that suits a GGUF file: named after it, with its own weights."""

from __future__ import annotations

from pathlib import Path

import pytest
from gguf import GGMLQuantizationType

from builder_service.sources.locate import open_source
from builder_service.sources.uri import Remote
from common.errors import InvalidArgument
from common.spec.model_spec import ModelSpec, Precision, Target
from sinkserve.cli.build.submit import readable_roots
from sinkserve.cli.terminal.suggest import SpecChoices, read_needs, source_of, suggest_spec
from tests.samples.checkpoints import write_checkpoint
from tests.samples.gguf.blocks import matrices_in
from tests.samples.gguf.files import write_gguf


def _suggested(path: Path, target: Target = Target.ONNXRUNTIME) -> tuple[ModelSpec, int]:
    source = source_of(path)
    with open_source(source, Remote()) as checkpoint:
        spec = suggest_spec(checkpoint, source, SpecChoices(target=target)).spec
        return spec, read_needs(checkpoint, spec)[1].weight_bytes


def _file(tmp_path: Path, kind: GGMLQuantizationType, parts: int = 1) -> Path:
    folder = write_checkpoint(tmp_path / "folder", hidden=256, intermediate=256, layers=1, tokenizer=False)
    return write_gguf(tmp_path / "My_Model.Q4.gguf", folder, matrices_in(kind), parts=parts)


def test_a_quantized_file_keeps_its_weights_and_gives_its_name(tmp_path: Path) -> None:
    spec, kept_bytes = _suggested(_file(tmp_path, GGMLQuantizationType.Q4_0, parts=2))
    assert (spec.name, spec.precision) == ("my_model.q4", Precision.KEEP)
    _, float_bytes = _suggested(_file(tmp_path, GGMLQuantizationType.F32))
    assert kept_bytes < float_bytes


def test_floats_and_other_targets_are_suited_as_ever(tmp_path: Path) -> None:
    assert _suggested(_file(tmp_path, GGMLQuantizationType.F16))[0].precision is Precision.FP32
    quantized = _file(tmp_path, GGMLQuantizationType.Q8_0)
    assert _suggested(quantized, Target.TENSORRT)[0].precision is Precision.FP16


def test_a_type_that_cannot_be_kept_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="IQ2_XS, which cannot be kept"):
        _suggested(_file(tmp_path, GGMLQuantizationType.IQ2_XS))


def test_a_link_keeps_its_name_and_its_target_is_what_may_be_read(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "0123").write_bytes(b"GGUF")
    link = tmp_path / "x.gguf"
    link.symlink_to("blobs/0123")
    source = source_of(link)
    assert source.uri == str(link)
    assert readable_roots(source) == (tmp_path / "blobs",)
