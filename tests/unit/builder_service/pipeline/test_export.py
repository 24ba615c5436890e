from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from builder_service.checkpoint.folder import open_checkpoint
from builder_service.families.registry import read_model
from builder_service.graph.weights import ALIGNMENT
from builder_service.model.model import tensor_shapes
from builder_service.model.tensors import ModelTensors
from builder_service.model.weight_format import WeightFormat
from builder_service.pipeline.export import weight_bytes, write_model
from common.errors import InvalidArgument
from common.spec.model_spec import PRECISIONS, Precision, Target
from common.window import Geometry
from tests.samples.checkpoints import write_checkpoint


def _export(folder: Path, out: Path, precision: Precision = Precision.FP32, window: int = 20) -> list[float]:
    checkpoint = open_checkpoint(folder)
    model = read_model(checkpoint.config)
    shares: list[float] = []
    tensors, geometry = ModelTensors(checkpoint.tensors, model), Geometry(4, window, 8, 2)
    write_model(model, tensors, geometry, WeightFormat(precision), out, shares.append)
    return shares


def _weights(out: Path) -> dict[str, onnx.TensorProto]:
    model = onnx.load(out / "model.onnx", load_external_data=False)
    return {tensor.name: tensor for tensor in model.graph.initializer if tensor.external_data}


def _read(out: Path, tensor: onnx.TensorProto) -> np.ndarray:
    place = {entry.key: entry.value for entry in tensor.external_data}
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    with (out / place["location"]).open("rb") as stream:
        stream.seek(int(place["offset"]))
        return np.frombuffer(stream.read(int(place["length"])), dtype).reshape(tuple(tensor.dims))


@pytest.mark.parametrize("precision", PRECISIONS[Target.ONNXRUNTIME])
def test_an_engine_is_two_files_with_all_weights_on_pages_of_the_second(tmp_path: Path, precision: Precision) -> None:
    shares = _export(write_checkpoint(tmp_path / "c"), tmp_path / "out", precision)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["model.onnx", "weights.bin"]
    for tensor in _weights(tmp_path / "out").values():
        place = {entry.key: entry.value for entry in tensor.external_data}
        assert place["location"] == "weights.bin"
        assert int(place["offset"]) % ALIGNMENT == 0
    assert (tmp_path / "out" / "model.onnx").stat().st_size < 100_000
    assert shares[-1] == 1.0


def test_float_weights_are_the_checkpoints_own(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "c", bias=True, dtype="bfloat16")
    _export(folder, tmp_path / "out")
    checkpoint, weights = open_checkpoint(folder), _weights(tmp_path / "out")
    for name, sources in {
        "model.norm.weight": ["model.norm.weight"],
        "embed_tokens.weight": ["model.embed_tokens.weight"],
        "model.layers.1.self_attn.q_proj_k_proj_v_proj.weight": [
            f"model.layers.1.self_attn.{part}_proj.weight" for part in "qkv"
        ],
        "model.layers.0.mlp.gate_proj_up_proj.bias": [
            f"model.layers.0.mlp.{part}_proj.bias" for part in ("gate", "up")
        ],
    }.items():
        expected = np.concatenate([checkpoint.tensors.tensor(source) for source in sources])
        np.testing.assert_array_equal(_read(tmp_path / "out", weights[name]), expected)


@pytest.mark.parametrize("precision", PRECISIONS[Target.ONNXRUNTIME])
def test_the_same_checkpoint_gives_the_same_bytes(tmp_path: Path, precision: Precision) -> None:
    folder = write_checkpoint(tmp_path / "c")
    sharded = write_checkpoint(tmp_path / "s", shards=3)
    outs = [tmp_path / "one", tmp_path / "two", tmp_path / "three"]
    for source, out in zip([folder, folder, sharded], outs, strict=True):
        _export(source, out, precision)
    for name in ("model.onnx", "weights.bin"):
        assert len({(out / name).read_bytes() for out in outs}) == 1


def test_a_float_tied_embedding_is_stored_once(tmp_path: Path) -> None:
    _export(write_checkpoint(tmp_path / "c", tied=True), tmp_path / "out")
    assert sum(list(tensor.dims) == [384, 32] for tensor in _weights(tmp_path / "out").values()) == 1


@pytest.mark.parametrize("precision", PRECISIONS[Target.ONNXRUNTIME])
def test_the_size_of_the_weights_is_known_before_they_are_read(tmp_path: Path, precision: Precision) -> None:
    folder = write_checkpoint(tmp_path / "c", tied=True, bias=True)
    _export(folder, tmp_path / "out", precision)
    planned = weight_bytes(read_model(open_checkpoint(folder).config), Geometry(4, 20, 8, 2), WeightFormat(precision))
    assert planned == (tmp_path / "out" / "weights.bin").stat().st_size


def test_a_tensor_that_is_missing_is_refused_by_name(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "c", layers=1)
    config = json.loads((folder / "config.json").read_text()) | {"num_hidden_layers": 2}
    (folder / "config.json").write_text(json.dumps(config))
    checkpoint = open_checkpoint(folder)
    with pytest.raises(InvalidArgument, match=r"model\.layers\.1"):
        ModelTensors(checkpoint.tensors, read_model(checkpoint.config)).check()


MEMORY_PROBE = """
import sys
from pathlib import Path
from tests.unit.builder_service.pipeline.test_export import _export
from common.spec.model_spec import PRECISIONS
from common.spec.model_spec import Precision
from common.spec.model_spec import Target

def high_water() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024

folder, precision = Path(sys.argv[1]), Precision(sys.argv[2])
before = high_water()
_export(folder, folder / precision, precision)
print(high_water() - before)
"""


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("precision", [Precision.FP32])  # what is rounded lies on the disk meanwhile
def test_weights_stream_through_little_memory(tmp_path: Path, precision: Precision) -> None:
    folder = _sparse_checkpoint(tmp_path / "c")
    command = [sys.executable, "-c", MEMORY_PROBE, str(folder), precision.value]
    grown = int(subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path.cwd()).stdout)
    assert grown < 0.4 * (folder / "model.safetensors").stat().st_size


def _sparse_checkpoint(folder: Path) -> Path:
    """120 million bfloat16 zeros that take no room on the disk."""
    write_checkpoint(folder, tokenizer=False)
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_size": 1024, "num_hidden_layers": 8, "intermediate_size": 2816, "vocab_size": 8000}
    config |= {"num_attention_heads": 16, "num_key_value_heads": 16}
    (folder / "config.json").write_text(json.dumps(config))
    header, end = {}, 0
    for name, shape in tensor_shapes(read_model(config)).items():
        start, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        stream.truncate(8 + len(text) + end)
    return folder
