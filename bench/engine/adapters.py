"""What LoRA adapters cost a decode step if the graph adds them, one a session, beside the step without.

    python bench/engine/adapters.py [--shape smollm-135m] [--precision int8] [--ranks 8,16] [--sessions 1,8]

The whole graph, with random weights; adapters of queries, keys, values and the output of attention, or of the
feed-forward layer too. "gathered": each row's own two matrices are gathered and multiplied. "masked": every row is
multiplied by all adapters at once, and what is not its own is struck out between the two. Processor time of one
thread, all forms by turns: the least of some rounds, and the median ratio to the step without in the same round, of
which there are two, for where its weights lie in memory makes a difference. Adapters are float32, one a slot.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnxruntime as ort

from bench.peers.shapes import SHAPES
from builder_service.families.registry import read_model
from builder_service.graph import transformer
from builder_service.graph.graph import Graph, WeightGroup
from builder_service.graph.linear import LINEAR, Activation, Linear, Matrix
from builder_service.graph.weights import file_bytes, layout
from builder_service.model.model import Model, tensor_shapes
from builder_service.model.weight_format import WeightFormat
from builder_service.pipeline.export import to_onnx
from common.spec.manifest import GRAPH_PATH, WEIGHTS_PATH
from common.spec.model_spec import Precision
from common.window import Geometry

SLOTS = 8
F32 = np.float32
GEOMETRY = Geometry(sinks=4, window=252, chunk=64, slots=SLOTS)
ATTENTION, ALL = ("q_proj", "o_proj"), ("q_proj", "o_proj", "gate_proj", "down_proj")
"""The first of the matrices that are one product in the graph."""


@dataclass(frozen=True)
class Form:
    """How adapters are added; no rank: not at all."""

    rank: int = 0
    targets: tuple[str, ...] = ()
    masked: bool = False
    again: bool = False
    """Loaded once more."""

    def __str__(self) -> str:
        where = "attention" if self.targets == ATTENTION else "all"
        return (
            f"rank {self.rank} on {where}, {'masked' if self.masked else 'gathered'}"
            if self.rank
            else ("without, again" if self.again else "without")
        )


class Adapted:
    """`Linear` that adds the product of the row's own adapter. Matrices side by side have one `down`."""

    def __init__(self, graph: Graph, inner: Linear, form: Form, model: Model, held: dict[str, tuple[int, ...]]) -> None:
        self._graph, self._inner, self._form, self._held = graph, inner, form, held
        self._outputs = {name: shape[0] for name, shape in tensor_shapes(model).items()}
        self._floats: dict[str, str] = {}
        self._own = graph.input("adapter", np.int64, ("tokens",))

    def prepare(self, rows: str, extent: str) -> Activation:
        ready = self._inner.prepare(rows, extent)
        self._floats[ready.rows] = rows
        return ready

    def project(self, activation: Activation, matrix: Matrix) -> str:
        product = self._inner.project(activation, matrix)
        if not any(f".{name}." in matrix.tensors[0] for name in self._form.targets):
            return product
        graph, rank, count = self._graph, self._form.rank, len(matrix.tensors)
        rows, down = self._floats[activation.rows], self._input(f"{matrix.name}.down", (count * rank, matrix.inputs))
        ups = [self._input(f"{name}.up", (rank, self._outputs[name])) for name in matrix.tensors]
        inner = self._masked_down(rows, down) if self._form.masked else self._gathered_down(rows, down)
        parts = [inner]  # [.., .., count * rank], its last extent cut by matrix
        if count > 1:
            parts = graph.split("Split", inner, out=("",) * count, axis=-1, num_outputs=count)
        up = self._masked_up if self._form.masked else self._gathered_up
        added = [up(part, each) for part, each in zip(parts, ups, strict=True)]
        return graph.node("Add", product, graph.node("Concat", *added, axis=-1) if count > 1 else added[0])

    def _gathered_down(self, rows: str, down: str) -> str:
        """[rows, 1, count * rank]."""
        column = self._graph.node("Unsqueeze", rows, self._graph.constant([2], np.int64))
        inner = self._graph.node("MatMul", self._graph.node("Gather", down, self._own), column)
        return self._graph.node("Transpose", inner, perm=[0, 2, 1])

    def _gathered_up(self, inner: str, up: str) -> str:
        added = self._graph.node("MatMul", inner, self._graph.node("Gather", up, self._own))
        return self._graph.node("Squeeze", added, self._graph.constant([1], np.int64))

    def _masked_down(self, rows: str, down: str) -> str:
        """[rows, slots, count * rank], zeros but for the row's own."""
        graph, wide, inputs = self._graph, *self._held[down][1:]
        flat = graph.node("Reshape", down, graph.constant([SLOTS * wide, inputs], np.int64))
        inner = graph.node("Gemm", rows, flat, transB=1)
        inner = graph.node("Reshape", inner, graph.constant([-1, SLOTS, wide], np.int64))
        return graph.node("Mul", inner, graph.node("Gather", graph.constant(np.eye(SLOTS)[:, :, None], F32), self._own))

    def _masked_up(self, inner: str, up: str) -> str:
        graph, rank, outputs = self._graph, *self._held[up][1:]
        flat = graph.node("Reshape", inner, graph.constant([-1, SLOTS * rank], np.int64))
        return graph.node("MatMul", flat, graph.node("Reshape", up, graph.constant([SLOTS * rank, outputs], np.int64)))

    def _input(self, name: str, shape: tuple[int, ...]) -> str:
        self._held[name] = (SLOTS, *shape)
        return self._graph.input(name, F32, (SLOTS, *shape))


def main() -> None:
    arguments = parse()
    config = SHAPES[arguments.shape].config
    model = read_model(config | ({"num_hidden_layers": arguments.layers} if arguments.layers else {}))
    choices = itertools.product(arguments.ranks, (ATTENTION, ALL), (False, True))
    forms = [Form(), *itertools.starmap(Form, choices), Form(again=True)]
    precision = Precision(arguments.precision)
    print(f"{arguments.shape}, {precision}, {GEOMETRY}\n\n| adapters | MB each | sessions | ms | ratio |")
    print("| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
        made = {form: prepared(model, precision, form, Path(scratch)) for form in forms}
        for sessions in arguments.sessions:
            runs = {form: run(sessions) for form, (run, _) in made.items()}
            times = measured(runs, arguments.rounds)
            without = (times[forms[0]] + times[forms[-1]]) / 2
            for form, (_, size) in made.items():
                least, ratio = 1e3 * times[form].min(), np.median(times[form] / without)
                print(f"| {form} | {size / 1e6:.1f} | {sessions} | {least:.1f} | {ratio:.2f} |", flush=True)


def parse() -> argparse.Namespace:
    def numbers(text: str) -> list[int]:
        return [int(part) for part in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="smollm-135m", choices=sorted(SHAPES))
    parser.add_argument("--precision", default="int8", choices=["fp32", "int8"])
    parser.add_argument("--ranks", type=numbers, default=[8, 16])
    parser.add_argument("--sessions", type=numbers, default=[1, 8])
    parser.add_argument("--layers", type=int, default=0, help="of the model; else all: every form has its own weights")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--scratch", help="folder for graphs and weights; else that of the system")
    return parser.parse_args()


def prepared(
    model: Model, precision: Precision, form: Form, folder: Path
) -> tuple[Callable[[int], Callable[[], object]], int]:
    """What makes a step of so many sessions, and the bytes of an adapter. All graphs read one file of weights."""
    held: dict[str, tuple[int, ...]] = {}
    make: Any = (
        {precision: lambda graph: Adapted(graph, LINEAR[precision](graph), form, model, held)} if form.rank else {}
    )
    with mock.patch.object(transformer, "LINEAR", {**LINEAR, **make}):
        graph = transformer.build_graph(model, GEOMETRY, WeightFormat(precision))
    if not (folder / WEIGHTS_PATH).exists():
        write_random(graph.groups, folder / WEIGHTS_PATH)
    (folder / GRAPH_PATH).write_bytes(to_onnx(graph, "adapted").SerializeToString())
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = ort.InferenceSession(folder / GRAPH_PATH, options)
    random = np.random.default_rng(0)
    adapters = {name: random.standard_normal(shape, np.float32) for name, shape in held.items()}
    return partial(step, session, adapters), sum(value.nbytes for value in adapters.values()) // SLOTS


def step(session: ort.InferenceSession, adapters: dict[str, Any], sessions: int) -> Callable[[], object]:
    """One token of each session, at a full window."""
    extents = {"batch": sessions, "step": 1, "outputs": sessions, "tokens": sessions, "rows": GEOMETRY.rows}
    binding = session.io_binding()
    for port in session.get_inputs():
        shape = [extents.get(extent, extent) for extent in port.shape]
        kind = np.int64 if port.type == "tensor(int64)" else np.float32
        value = adapters.get(port.name, np.zeros(shape, kind))
        binding.bind_cpu_input(port.name, np.arange(sessions) if port.name in {"adapter", "outputs"} else value)
    for port in session.get_outputs():
        binding.bind_output(port.name, "cpu")
    return partial(session.run_with_iobinding, binding)


def measured(runs: dict[Form, Callable[[], object]], rounds: int) -> dict[Form, np.ndarray]:
    """Processor seconds of a step, of every round."""
    times: dict[Form, list[float]] = {form: [] for form in runs}
    for form, run in itertools.chain(*itertools.repeat(runs.items(), rounds + 1)):
        begun = time.process_time()
        run()
        times[form].append(time.process_time() - begun)
    return {form: np.array(each[1:]) for form, each in times.items()}


def write_random(groups: list[WeightGroup], path: Path) -> None:
    random, offsets = np.random.default_rng(0), layout(groups)
    with path.open("wb") as file:
        file.truncate(file_bytes(groups))
        for weight in itertools.chain.from_iterable(group.weights for group in groups):
            file.seek(offsets[weight.name])
            for count in pieces(weight.size_bytes // weight.dtype.itemsize):
                values: Any = random.integers(-60, 60, count, np.int8) if weight.dtype == np.int8 else 0.01
                file.write(np.broadcast_to(np.asarray(values, weight.dtype), count).tobytes())


def pieces(count: int) -> Iterator[int]:
    for start in range(0, count, 1 << 22):
        yield min(1 << 22, count - start)


if __name__ == "__main__":
    main()
