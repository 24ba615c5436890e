"""The graph's promise to whoever runs it: names, shapes, operators, and what is done in place."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from builder_service.checkpoint.folder import open_checkpoint
from builder_service.families.registry import read_model
from builder_service.graph.graph import CONTRIB
from builder_service.graph.transformer import build_graph
from builder_service.graph.weights import file_bytes
from builder_service.model.model import tensor_shapes
from builder_service.model.weight_format import WeightFormat, block_formats
from common.spec.model_spec import PRECISIONS, Precision, Target
from common.spec.target_options import INT4_BLOCK
from common.window import Geometry
from tests.samples.checkpoints import write_checkpoint
from tests.samples.engines import export_graph

GEOMETRY = Geometry(sinks=4, window=20, chunk=8, slots=3)
ROWS = 4 + 20 + 2 * 7


def _ports(folder: Path, geometry: Geometry) -> tuple[dict[str, list[object]], dict[str, list[object]]]:
    session = ort.InferenceSession(export_graph(folder, geometry) / "model.onnx", providers=["CPUExecutionProvider"])
    named = [{port.name: port.shape for port in ports} for ports in (session.get_inputs(), session.get_outputs())]
    return named[0], named[1]


def test_inputs_and_outputs_are_those_of_the_contract(tmp_path: Path) -> None:
    inputs, outputs = _ports(write_checkpoint(tmp_path / "c", layers=2), GEOMETRY)
    extents = {"key_cache": ["rows", 8], "value_columns": [8, "rows"]}
    caches = {f"{kind}_{layer}": ["batch", 2, *inner] for layer in range(2) for kind, inner in extents.items()}
    assert inputs == caches | {
        "token_ids": ["batch", "step"],
        "write_rows": ["batch"],
        "mask": ["batch", 1, 1, "step", "rows"],
        **{name: ["batch", "step", 4] for name in ("cos", "sin", "sink_cos", "sink_sin")},
        "outputs": ["outputs"],
    }
    assert outputs == {"logits": ["outputs", 384]} | {f"{name}_out": shape for name, shape in caches.items()}


def test_without_sinks_there_are_no_angles_for_them(tmp_path: Path) -> None:
    inputs, _ = _ports(write_checkpoint(tmp_path / "c", layers=1), Geometry(sinks=0, window=20, chunk=8, slots=3))
    assert not [name for name in inputs if name.startswith("sink")]


@pytest.mark.parametrize("precision", PRECISIONS[Target.ONNXRUNTIME])
def test_operators_of_another_kind_are_only_onnxruntimes_own(tmp_path: Path, precision: Precision) -> None:
    model = read_model(open_checkpoint(write_checkpoint(tmp_path / "c")).config)
    nodes = build_graph(model, GEOMETRY, WeightFormat(precision)).nodes
    assert {node.domain for node in nodes} <= {"", CONTRIB}
    matrices = Counter(node.op_type for node in nodes)
    own = {Precision.INT8: "MatMulIntegerToFloat", Precision.INT4: "MatMulNBits"}  # nothing here can be kept
    assert (
        matrices[own.get(precision, "Gemm")] == (5 if precision is Precision.INT4 else 4) * 2 + 1
    )  # q/k/v in one, or the values by themselves; output, gate/up in one, down; and the logits


def test_int4_has_8_bits_where_4_would_cost_much(tmp_path: Path) -> None:
    model = read_model(open_checkpoint(write_checkpoint(tmp_path / "c")).config)
    nodes = build_graph(model, GEOMETRY, WeightFormat(Precision.INT4, 128)).nodes
    kinds = Counter(
        (*(next(a.i for a in node.attribute if a.name == name) for name in ("bits", "block_size")), len(node.input))
        for node in nodes
        if node.op_type == "MatMulNBits"
    )
    assert kinds == {(4, 128, 4): 4 * 2 - 1, (8, 128, 4): 2 + 1 + 1}  # values, logits, one of two down projections


def test_int8_activations_are_made_once_for_all_that_read_them(tmp_path: Path) -> None:
    model = read_model(open_checkpoint(write_checkpoint(tmp_path / "c")).config)
    nodes = build_graph(model, GEOMETRY, WeightFormat(Precision.INT8)).nodes
    assert sum(node.op_type == "QuantizeLinear" for node in nodes) == 4 * 2 + 1


@pytest.mark.parametrize("tied", [False, True])
def test_weights_are_as_large_as_their_precision_says(tmp_path: Path, tied: bool) -> None:
    model = read_model(open_checkpoint(write_checkpoint(tmp_path / "c", hidden=256, vocab=5000, tied=tied)).config)
    parameters = model.architecture.parameters
    sizes = {
        precision: file_bytes(build_graph(model, GEOMETRY, WeightFormat(precision)).groups)
        for precision in PRECISIONS[Target.ONNXRUNTIME]
    }
    assert sizes[Precision.FP32] == pytest.approx(4 * parameters, rel=0.02)
    # Quantized, a tied embedding is stored twice: rows to look up, and the matrix of the logits.
    embedding = 5000 * 256
    matrices = parameters - (0 if tied else embedding)
    assert sizes[Precision.INT8] == pytest.approx(matrices + embedding, rel=0.05)
    shapes = tensor_shapes(model)
    for block in (32, 64, 128):
        chosen = WeightFormat(Precision.INT4, block)
        sizes_of = {
            name: math.prod(shapes[name]) * one.bytes_each for name, one in block_formats(model, chosen).items()
        }
        size = file_bytes(build_graph(model, GEOMETRY, chosen).groups)
        assert 0 < size - sum(sizes_of.values()) < 4096 * 60  # each weight begins on a page
        layers = [name for name in sizes_of if ".layers." in name]
        weights = sum(math.prod(shapes[name]) for name in layers)
        assert 4.5 / 8 < sum(sizes_of[name] for name in layers) / weights <= 5 / 8
    default = WeightFormat(Precision.INT4, INT4_BLOCK)
    assert sizes[Precision.INT4] == file_bytes(build_graph(model, GEOMETRY, default).groups)


@pytest.mark.parametrize("precision", PRECISIONS[Target.ONNXRUNTIME])
def test_caches_and_scores_are_written_in_place(
    tmp_path: Path, precision: Precision, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = export_graph(write_checkpoint(tmp_path / "c"), GEOMETRY, precision)
    options = ort.SessionOptions()
    options.log_severity_level = 2  # warnings
    session = ort.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
    extents = {"batch": 2, "step": 3, "outputs": 2, "rows": ROWS}
    arrays = {}
    for port in session.get_inputs():
        shape = [extents.get(extent, extent) for extent in port.shape]
        arrays[port.name] = np.zeros(shape, np.int64 if port.type == "tensor(int64)" else np.float32)
    binding = session.io_binding()
    for name, array in arrays.items():
        binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        if name.startswith(("key_cache", "value_columns")):
            binding.bind_output(f"{name}_out", "cpu", 0, np.float32, array.shape, array.ctypes.data)
    binding.bind_output("logits", "cpu")
    capfd.readouterr()
    session.run_with_iobinding(binding)
    assert "in-place" not in capfd.readouterr().err
    assert arrays["value_columns_1"][..., :3].any()
    assert not arrays["value_columns_1"][..., 3:].any()
