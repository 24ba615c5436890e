"""Attention's two products over keys and values in fewer bits, in the operators that onnxruntime has for them.

    python bench/engine/narrow_kv.py [--sessions 1,8,32] [--group 3]

Processor time of one thread, least of some rounds, all forms by turns over caches that are in no cache of the
processor. "int8" multiplies keys and values as they are stored, each token with a scale of its own: queries in 8 bits,
weights in 8 (`one byte`) or twice 8 (`two bytes`). `--group 192` is a chunk of 64 tokens in SmolLM-135M.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import onnxruntime as ort

from builder_service.graph.graph import CONTRIB, Graph

ROWS, HEADS, DIM = 1152, 3, 64
CACHES = 48  # sessions' worth of caches that take turns
F32, F16, U8, S8 = np.float32, np.float16, np.uint8, np.int8
Form = Callable[[Graph, int, int], str]


def scores_f32(graph: Graph, batch: int, group: int) -> str:
    return graph.node("FusedMatMul", *_floats(graph, batch, group, F32), domain=CONTRIB, transB=1)


def scores_f16(graph: Graph, batch: int, group: int) -> str:
    query, keys = _floats(graph, batch, group, F16)
    return graph.node("FusedMatMul", query, graph.node("Cast", keys, to=1), domain=CONTRIB, transB=1)


def scores_int8(graph: Graph, batch: int, group: int) -> str:
    query = graph.input("left", U8, (batch, HEADS, group, DIM))
    keys = graph.input("cache", S8, (batch, HEADS, DIM, ROWS))
    scales = graph.input("scales", F32, (batch, HEADS, 1, ROWS))
    own = graph.input("own", F32, (batch, HEADS, group, 1))
    zero = graph.constant(128, U8)
    product = graph.node("MatMulIntegerToFloat", query, keys, _one(graph), scales, zero, domain=CONTRIB)
    return graph.node("Mul", product, own)


def mix_f32(graph: Graph, batch: int, group: int) -> str:
    return graph.node("FusedMatMul", *_columns(graph, batch, group, F32), domain=CONTRIB, transB=1)


def mix_f16(graph: Graph, batch: int, group: int) -> str:
    values, weights = _columns(graph, batch, group, F16)
    return graph.node("FusedMatMul", graph.node("Cast", values, to=1), weights, domain=CONTRIB, transB=1)


def mix_one_byte(graph: Graph, batch: int, group: int) -> str:
    rows, values, high, scale = _rounded_weights(graph, batch, group)
    del rows
    shape = graph.constant([batch, HEADS, group, ROWS], np.int64)
    mixed = graph.node(
        "MatMulIntegerToFloat", graph.node("Reshape", high, shape), values, _one(graph), _one(graph), domain=CONTRIB
    )
    return graph.node("Mul", mixed, scale)


def mix_two_bytes(graph: Graph, batch: int, group: int) -> str:
    rows, values, high, scale = _rounded_weights(graph, batch, group)
    flat = graph.node("Reshape", scale, graph.constant([-1], np.int64))
    rest = graph.node("Sub", rows, graph.node("DequantizeLinear", high, flat, axis=0))
    step, middle = graph.constant(1 / 254, F32), graph.constant(128, U8)
    middles = graph.node("Expand", middle, graph.node("Shape", flat))
    low = graph.node("QuantizeLinear", rest, graph.node("Mul", flat, step), middles, axis=0)
    shape = graph.constant([batch, HEADS, group, ROWS], np.int64)
    high, low = (graph.node("Reshape", part, shape) for part in (high, low))
    first = graph.node("MatMulIntegerToFloat", high, values, _one(graph), _one(graph), domain=CONTRIB)
    second = graph.node("MatMulIntegerToFloat", low, values, step, _one(graph), middle, domain=CONTRIB)
    return graph.node("Mul", graph.node("Add", first, second), scale)


FORMS: dict[str, Form] = {
    "scores, f32": scores_f32,
    "scores, f16 widened": scores_f16,
    "scores, int8": scores_int8,
    "mix, f32": mix_f32,
    "mix, f16 widened": mix_f16,
    "mix, int8, one byte": mix_one_byte,
    "mix, int8, two bytes": mix_two_bytes,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", default="1,8,32")
    parser.add_argument("--group", type=int, default=3, help="queries that share a key's head")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    for sessions in map(int, arguments.sessions.split(",")):
        forms = {name: steps(form, sessions, arguments.group) for name, form in FORMS.items()}
        least = dict.fromkeys(forms, float("inf"))
        for _ in range(arguments.rounds):
            least = {name: min(least[name], microseconds(run)) for name, run in forms.items()}
        print(f"{sessions} sessions, {arguments.group} queries a head: microseconds")
        for name, value in least.items():
            print(f"  {name:22} {value:8.0f}")


def steps(form: Form, sessions: int, group: int) -> list[Callable[[], object]]:
    """One call for each of the caches that take turns."""
    graph, random = Graph(), np.random.default_rng(0)
    graph.node("Identity", form(graph, sessions, group), out="result")
    graph.output("result", F32, (sessions, HEADS, "rows", "columns"))
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = ort.InferenceSession(graph.model("narrow", []).SerializeToString(), options)
    calls: list[Callable[[], object]] = []
    for _ in range(max(1, CACHES // sessions)):
        binding = session.io_binding()
        for port in session.get_inputs():
            kind = {"tensor(float)": F32, "tensor(float16)": F16, "tensor(uint8)": U8}.get(port.type, S8)
            binding.bind_cpu_input(port.name, random.integers(1, 100, port.shape).astype(kind))
        binding.bind_output("result", "cpu")
        calls.append(partial(session.run_with_iobinding, binding))
    return calls


def microseconds(calls: list[Callable[[], object]]) -> float:
    calls[0]()
    begun = time.process_time()
    for call in calls:
        call()
    return 1e6 * (time.process_time() - begun) / len(calls)


def _floats(graph: Graph, batch: int, group: int, kind: type[np.generic]) -> tuple[str, str]:
    """Queries, and keys by row."""
    return graph.input("left", F32, (batch, HEADS, group, DIM)), graph.input("cache", kind, (batch, HEADS, ROWS, DIM))


def _columns(graph: Graph, batch: int, group: int, kind: type[np.generic]) -> tuple[str, str]:
    """Values by column, and weights."""
    return graph.input("cache", kind, (batch, HEADS, DIM, ROWS)), graph.input("left", F32, (batch, HEADS, group, ROWS))


def _rounded_weights(graph: Graph, batch: int, group: int) -> tuple[str, str, str, str]:
    """Weights times the values' scales, [rows of them, row]; values; those weights in 8 bits; and their scales."""
    weights = graph.input("left", F32, (batch, HEADS, group, ROWS))
    values = graph.input("cache", S8, (batch, HEADS, ROWS, DIM))
    scaled = graph.node("Mul", weights, graph.input("scales", F32, (batch, HEADS, 1, ROWS)))
    peak = graph.node("ReduceMax", scaled, graph.constant([3], np.int64), keepdims=1)
    scale = graph.node("Mul", peak, graph.constant(1 / 255, F32))
    rows = graph.node("Reshape", scaled, graph.constant([-1, ROWS], np.int64))
    flat = graph.node("Reshape", scale, graph.constant([-1], np.int64))
    return rows, values, graph.node("QuantizeLinear", rows, flat, axis=0), scale


def _one(graph: Graph) -> str:
    return graph.constant(1, F32)


if __name__ == "__main__":
    main()
