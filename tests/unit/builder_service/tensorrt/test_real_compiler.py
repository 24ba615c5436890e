"""NVIDIA's own parser and compiler on what we make: TensorRT-RTX, which needs no GPU. `make tensorrt` has the rest."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx
import pytest

from builder_service.families.registry import read_model
from builder_service.graph.graph import attributes_of
from builder_service.model.weight_format import WeightFormat
from builder_service.pipeline.export import engine_graph
from common.spec.manifest import GRAPH_PATH, WEIGHTS_PATH
from common.spec.model_spec import Precision, Target
from tests.rtx.operators import all_in_one
from tests.rtx.process import GEOMETRY, Job, compile_all, needs_rtx
from tests.samples.broken_graphs import BROKEN, Broken
from tests.samples.engines import export_graph
from tests.samples.families import CONFIGS, ON_EVERY_TARGET, write_family

pytestmark = needs_rtx

LAYERS = {"arcee": 1, "command-r": 1, "gemma2": 2, "glm": 1, "mpt": 1, "phi2": 1, "pythia": 1, "qwen2": 1}
"""Families whose graphs have, among them, every form of every operator; and how many layers are enough."""

Form = tuple[str, int, tuple[str, ...]]


def exported(folder: Path, name: str, precision: str = "bf16") -> Path:
    count = "n_layers" if "n_layers" in CONFIGS[name] else "num_hidden_layers"
    checkpoint = write_family(folder / name, name, **{count: LAYERS[name]})
    return export_graph(checkpoint, GEOMETRY, precision, Target.TENSORRT) / GRAPH_PATH


def test_the_families_that_are_compiled_have_every_form_of_every_operator() -> None:
    assert set().union(*map(_forms, LAYERS)) == set().union(*map(_forms, ON_EVERY_TARGET))


def _forms(name: str) -> set[Form]:
    """Operators of a family's graph, with the number of inputs and with the attributes that choose between kernels."""
    model = read_model(CONFIGS[name])
    graph = engine_graph(model, GEOMETRY, WeightFormat(Precision.BF16), Target.TENSORRT)
    return {(node.op_type, len(node.input), _choices(node)) for node in graph.nodes}


def _choices(node: onnx.NodeProto) -> tuple[str, ...]:
    values = attributes_of(node)
    words = [f"{name}={value!r}" for name, value in values.items() if isinstance(value, bytes)]
    flags = [f"{name}={bool(values[name])}" for name in ("interleaved", "rotary_embedding_dim") if name in values]
    return tuple(sorted(words + flags))


@pytest.mark.nightly
@pytest.mark.parametrize("gpus", [("sm120",), ("sm86", "sm120")])
def test_it_compiles_every_form_for_blackwell_and_ampere(tmp_path: Path, gpus: tuple[str, ...]) -> None:
    jobs = [Job(str(exported(tmp_path, name)), gpus=gpus) for name in LAYERS]
    for name, outcome in zip(LAYERS, compile_all(jobs), strict=True):
        assert not outcome.error, name
        assert outcome.plan_bytes > 100_000
        assert outcome.layers["KV_CACHE_UPDATE"] == 2 * LAYERS[name], "keys and values are written in place"
        assert ("ROTARY_EMBEDDING" in outcome.layers) is (name != "mpt")


@pytest.mark.long
def test_weights_in_few_bits_are_compiled_for_the_gpus_that_have_them(tmp_path: Path) -> None:
    checkpoint = write_family(tmp_path / "llama", "llama", hidden_size=64, intermediate_size=96, num_hidden_layers=1)
    gpus = {"int8": ("sm86", "sm120"), "int4": ("sm86", "sm120"), "fp8": ("sm89", "sm120")}
    graphs = {each: export_graph(checkpoint, GEOMETRY, each, Target.TENSORRT) / GRAPH_PATH for each in gpus}
    outcomes = compile_all([Job(str(graph), each, gpus[each]) for each, graph in graphs.items()])
    for precision, outcome in zip(gpus, outcomes, strict=True):
        assert not outcome.error, precision
        assert outcome.layers["DEQUANTIZE"] >= 5, "a layer's four products at least, and the logits'"
        assert ("QUANTIZE" in outcome.layers) is (precision == "fp8")


@pytest.mark.long
def test_what_the_checker_allows_is_compiled_and_what_it_forbids_is_refused_or_has_a_reason(tmp_path: Path) -> None:
    graph = exported(tmp_path, "qwen2", "fp16")
    every = tmp_path / "operators.onnx"
    every.write_bytes(all_in_one().SerializeToString())
    compiled = [each for each in BROKEN if each.refused_by == "compiler"]
    parsed = [each for each in BROKEN if each.refused_by != "compiler"]
    jobs = [Job(_planted(graph, broken), "fp16", compiles=broken in compiled) for broken in (*compiled, *parsed)]
    everything, *outcomes = compile_all([Job(str(every), gpus=("sm89",)), *jobs])
    assert not everything.error
    for broken, outcome in zip(compiled, outcomes, strict=False):
        assert "does not compile the graph" in outcome.error, broken.name
    for broken, outcome in zip(parsed, outcomes[len(compiled) :], strict=True):
        assert outcome.supported is not (broken.refused_by == "parser"), broken.name
        assert outcome.supported is bool(broken.why), f"{broken.name}: allow it, or say why not"


def _planted(graph: Path, broken: Broken) -> str:
    model = onnx.load(graph, load_external_data=False)
    broken.plant(model)
    path = graph.with_name(f"{broken.name}.onnx")
    path.write_bytes(model.SerializeToString())
    return str(path)


@pytest.mark.long
def test_what_goes_wrong_is_said_in_the_compilers_words(tmp_path: Path) -> None:
    graph = exported(tmp_path, "arcee")
    short = shutil.copytree(graph.parent, tmp_path / "short")
    (short / WEIGHTS_PATH).write_bytes((short / WEIGHTS_PATH).read_bytes()[:-200])
    cases = {
        r"node Relu_\d+ \(NonZero\): ": Job(_replaced(graph, "Relu", "NonZero")),
        r"node Add_\d+ \(Add\): [^;]*Float and Int64": Job(_added_to_ids(graph)),
        "external weights offset/length out of range": Job(str(short / GRAPH_PATH)),
        "No space left on device": Job(str(graph), plan="/dev/full"),
        "bad_alloc": Job(str(graph), memory_mib=48),  # last: it is the process that gets no more
    }
    for (words, job), outcome in zip(cases.items(), compile_all(list(cases.values())), strict=True):
        with pytest.raises(AssertionError, match=words):
            raise AssertionError(outcome.error)
        assert outcome.error.startswith("OSError") or "TensorRT-RTX 1.7" in outcome.error, job
        assert "cudaError" not in outcome.error, "a driver is not what is missing"


def _replaced(graph: Path, operator: str, other: str) -> str:
    """A fault of the lowering: an operator that the parser does not take."""
    model = onnx.load(graph, load_external_data=False)
    next(node for node in model.graph.node if node.op_type == operator).op_type = other
    path = graph.with_name(f"{other}.onnx")
    path.write_bytes(model.SerializeToString())
    return str(path)


def _added_to_ids(graph: Path) -> str:
    """Another: types that do not meet."""
    model = onnx.load(graph, load_external_data=False)
    node = next(node for node in model.graph.node if node.op_type == "Add" and node.output[0])
    node.input[1] = "token_ids"
    path = graph.with_name("types.onnx")
    path.write_bytes(model.SerializeToString())
    return str(path)
