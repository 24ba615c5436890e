"""The compiled operator computes attention over 8-bit keys and values as float64 does, whatever else is in the step."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from builder_service.graph.attention.few_tokens import INPUTS, OPERATOR
from builder_service.graph.graph import IR_VERSION, OPSET, OWN
from common.engine.kernel import operator_library
from common.engine.step_inputs import MASKED
from tests.nightly import examples

Array = npt.NDArray[Any]
FLOAT, INT8 = TensorProto.FLOAT, TensorProto.INT8
pytestmark = pytest.mark.skipif(not operator_library.available(), reason="no C compiler at installation, or no AVX-512")


@dataclass(frozen=True)
class Shape:
    """Extents of a case."""

    batch: int
    step: int
    kv_heads: int
    group: int
    dim: int
    rows: int
    sinks: int
    cap: float = 0.0

    @property
    def scale(self) -> float:
        return float(self.dim**-0.5 / (self.cap or 1))


@cache
def session(heads: int, sinks: int, scale: float, cap: float, threads: int = 2) -> ort.InferenceSession:
    types = (FLOAT, FLOAT, INT8, INT8, FLOAT, FLOAT)
    ranks = (3, 3, 4, 4, 5, 4)
    ports = [
        helper.make_tensor_value_info(name, each, [None] * rank)
        for name, each, rank in zip(INPUTS, types, ranks, strict=True)
    ]
    node = helper.make_node(OPERATOR, INPUTS, ["out"], domain=OWN, heads=heads, sinks=sinks, scale=scale, cap=cap)
    out = helper.make_tensor_value_info("out", FLOAT, [None, None])
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(OWN, 1)]
    graph = helper.make_graph([node], "attention", ports, [out])
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    operator_library.register(options)
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def attend(shape: Shape, inputs: dict[str, Array]) -> Array:
    run = session(shape.kv_heads * shape.group, shape.sinks, shape.scale, shape.cap)
    return np.asarray(run.run(None, inputs)[0])


def random_inputs(shape: Shape, seed: int = 0, *, sloped: bool = False) -> dict[str, Array]:
    """Any rows seen but for some; each query sees one at least. `sloped`: a bias of its own for each head."""
    random = np.random.default_rng(seed)
    width = shape.kv_heads * shape.group * shape.dim
    heads = (shape.kv_heads, shape.group) if sloped else (1, 1)
    seen = random.random((shape.batch, 1, 1, shape.step, shape.rows)) < 0.8
    seen[..., 0] = True
    bias = np.where(
        seen, random.standard_normal((shape.batch, *heads, shape.step, shape.rows)) if sloped else 0, MASKED
    )
    cache = (shape.batch, shape.kv_heads)
    return {
        "query": random.standard_normal((shape.batch, shape.step, width)).astype(np.float32),
        "sink_query": random.standard_normal((shape.batch, shape.step, width)).astype(np.float32),
        "keys": random.integers(-127, 128, (*cache, shape.dim, shape.rows)).astype(np.int8),
        "values": random.integers(-127, 128, (*cache, shape.rows, shape.dim)).astype(np.int8),
        "bias": bias.astype(np.float32),
        "scales": (random.random((shape.batch, 2 * shape.kv_heads, 1, shape.rows)) / 30).astype(np.float32),
    }


def expected(shape: Shape, inputs: dict[str, Array]) -> Array:
    """The same in float64, as the paper has it."""
    key_scales, value_scales = np.split(inputs["scales"].astype(np.float64), 2, axis=1)
    keys, values = inputs["keys"] * key_scales, inputs["values"] * value_scales.swapaxes(2, 3)

    def scores(query: Array) -> Array:
        heads = query.reshape(shape.batch, shape.step, shape.kv_heads, shape.group, shape.dim)
        return np.asarray(np.einsum("bshgd,bhdr->bhgsr", heads.astype(np.float64), keys) * shape.scale)

    all_scores = scores(inputs["query"])
    all_scores[..., : shape.sinks] = scores(inputs["sink_query"])[..., : shape.sinks]
    if shape.cap:
        all_scores = shape.cap * np.tanh(all_scores)
    all_scores = all_scores + inputs["bias"]
    weights = np.exp(all_scores - all_scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    mixed = np.einsum("bhgsr,bhrd->bshgd", weights, values)
    return np.asarray(mixed.reshape(shape.batch * shape.step, -1))


def few(least: int, most: int) -> st.SearchStrategy[int]:
    return st.integers(least, most)


DIMS = few(1, 17).map(lambda n: 8 * n)


@settings(max_examples=examples(40), deadline=None)
@given(
    st.builds(
        Shape,
        few(1, 3),
        few(1, 4),
        few(1, 3),
        few(1, 9),
        few(1, 17).map(lambda n: 8 * n),
        few(1, 200),
        few(0, 4) | few(5, 256),
    ),
    st.booleans(),
    st.sampled_from([0.0, 30.0]),
)
def test_it_is_attention(shape: Shape, sloped: bool, cap: float) -> None:
    shape = Shape(**{**vars(shape), "cap": cap})
    inputs = random_inputs(shape, shape.rows, sloped=sloped)
    right = expected(shape, inputs)
    np.testing.assert_allclose(attend(shape, inputs), right, rtol=0, atol=3e-6 * np.abs(right).max())


@pytest.mark.parametrize("rows", [5, 64, 100])
def test_rows_that_are_not_seen_change_no_bit_however_many_there_are(rows: int) -> None:
    shape = Shape(1, 1, 2, 3, 64, rows, 2)
    inputs = random_inputs(shape)
    wider = Shape(1, 1, 2, 3, 64, rows + 75, 2)
    more = random_inputs(wider, 1) | {name: inputs[name] for name in ("query", "sink_query")}
    for name, axis in (("keys", 3), ("values", 2), ("bias", 4), ("scales", 3)):
        index = [slice(None)] * inputs[name].ndim
        index[axis] = slice(rows)
        more[name][tuple(index)] = inputs[name]
    more["bias"][..., rows:] = MASKED
    np.testing.assert_array_equal(attend(shape, inputs), attend(wider, more))


def test_a_slot_and_a_token_are_the_same_to_the_bit_whatever_is_beside_them() -> None:
    shape = Shape(3, 4, 2, 4, 64, 70, 4)
    inputs = random_inputs(shape)
    together = attend(shape, inputs).reshape(3, 4, -1)
    for slot in range(3):
        alone = {name: array[slot : slot + 1] for name, array in inputs.items()}
        for token in range(4):
            one = alone | {name: alone[name][:, token : token + 1] for name in ("query", "sink_query")}
            one["bias"] = np.ascontiguousarray(alone["bias"][..., token : token + 1, :])
            one = {name: np.ascontiguousarray(array) for name, array in one.items()}
            np.testing.assert_array_equal(attend(shape, one)[0], together[slot, token])


@pytest.mark.parametrize("which", ["keys", "values"])
def test_a_scale_that_is_not_finite_shows_in_its_head_even_in_a_row_that_is_not_seen(which: str) -> None:
    shape = Shape(2, 1, 2, 2, 8, 70, 2)
    inputs = random_inputs(shape)
    clean = attend(shape, inputs).reshape(2, 2, -1)
    inputs["bias"][1, ..., 69] = MASKED
    inputs["scales"][1, 0 if which == "keys" else 2, 0, 69] = np.nan
    poisoned = attend(shape, inputs).reshape(2, 2, -1)
    assert np.isnan(poisoned[1, 0]).all()
    np.testing.assert_array_equal(poisoned[0], clean[0])
    assert np.isfinite(poisoned[1, 1]).all()


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("axis", range(5))
def test_inputs_that_do_not_fit_each_other_are_refused(name: str, axis: int) -> None:
    inputs = random_inputs(Shape(2, 2, 2, 3, 8, 30, 4))
    if axis >= inputs[name].ndim:
        inputs[name] = inputs[name][None]
    elif inputs[name].shape[axis] == 1:
        inputs[name] = np.repeat(inputs[name], 5, axis)
    else:
        inputs[name] = np.ascontiguousarray(np.delete(inputs[name], 0, axis))
    with pytest.raises(Exception, match="WindowAttention|Invalid rank"):
        session(6, 4, 8**-0.5, 0.0).run(None, inputs)
