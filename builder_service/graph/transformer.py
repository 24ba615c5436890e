"""The graph of a decoder: embedding, layers of attention and feed-forward, and the logits after some of the tokens.

Inputs and outputs are those that `common.engine.step_inputs` fills; extents `batch`, `step` and `outputs` vary, the
rest is fixed by model and geometry. The residual stream is [tokens, hidden], tokens being batch times step, and
[outputs, hidden] once only the tokens matter whose logits are wanted: every slot's last, or all of a draft.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from builder_service.checkpoint.checkpoint import Tensors
from builder_service.graph.attention import Attention, HeadNorms, Inputs
from builder_service.graph.graph import CONTRIB, Array, Graph, Shape, Weight, WeightGroup
from builder_service.graph.linear import FLOAT, LINEAR, LOGITS, Linear, Matrix, float_weight, int8_weight
from builder_service.model.model import EMBEDDING, HEAD, LAYER, Activation, Model, tensor_shapes
from builder_service.model.weight_format import WeightFormat
from common.spec.model_spec import Precision
from common.window import Geometry

TOKENS, OUTPUTS = "tokens", "outputs"  # extents
RESIDUAL = "residual"  # the residual stream's states: residual_0 behind the first attention, residual_1 behind it all


@dataclass(frozen=True)
class Rows:
    """A value [extent, width]: a row for every token of the step, or for those whose logits are wanted."""

    name: str
    extent: str
    width: int

    def of(self, name: str) -> Rows:
        """Another value of this shape."""
        return Rows(name, self.extent, self.width)


def build_graph(model: Model, geometry: Geometry, weight_format: WeightFormat, *, value_columns: bool = True) -> Graph:
    """The whole graph; its weights are described, not read. `value_columns`: how the cache holds values."""
    return _Builder(model, geometry, weight_format, value_columns=value_columns).build()


class _Builder:
    """One graph in the making."""

    def __init__(self, model: Model, geometry: Geometry, weight_format: WeightFormat, *, value_columns: bool) -> None:
        self.model = model
        self.shapes = model.architecture
        self.geometry = geometry
        self.graph = Graph()
        self.linear: Linear = LINEAR[weight_format.precision](self.graph, weight_format.block)
        self.last_linear: Linear = LOGITS[weight_format.precision](self.graph)
        self.quantized = weight_format.precision is not Precision.FP32
        self.tensors = tensor_shapes(model)
        self.tokens, self.outputs, inputs = self._declare_inputs()
        self.batch_step = self.graph.node("Shape", self.tokens)
        rotary_dim, slopes = model.rope.head_dim if model.rope else 0, model.alibi_slopes
        self.attention = Attention(self.graph, self.shapes, geometry, inputs, rotary_dim, slopes, value_columns)
        self.embedding = ""  # float32 rows, once they are declared

    def build(self) -> Graph:
        self.graph.output("logits", np.float32, (OUTPUTS, self.shapes.vocabulary))
        residual = self._embed()
        for layer in range(self.shapes.layers):
            normed = self._norm(residual, f"{LAYER}.{layer}.input_layernorm")
            attended = self._attend(layer, normed)
            if layer == self.shapes.layers - 1:  # from here on, only the wanted tokens' rows lead to an output
                normed = self._wanted(normed) if self.model.shared_norm else normed
                attended, residual = self._wanted(attended), self._wanted(residual)
            written = self._project(layer, "self_attn", ("o_proj",), attended)
            before, residual = residual, self._add(residual, written, 2 * layer)
            if not self.model.shared_norm:
                read = before if self.model.parallel else residual
                normed = self._norm(read, f"{LAYER}.{layer}.post_attention_layernorm")
            residual = self._add(residual, self._feed_forward(layer, normed), 2 * layer + 1)
        self._logits(residual)
        return self.graph

    def _declare_inputs(self) -> tuple[str, str, Inputs]:
        graph = self.graph
        tokens = graph.input("token_ids", np.int64, ("batch", "step"))
        rows = graph.input("write_rows", np.int64, ("batch",))
        mask = graph.input("mask", np.float32, ("batch", 1, 1, "step", self.geometry.rows))
        positions = self._declare_positions()
        outputs = graph.input("outputs", np.int64, (OUTPUTS,))
        return tokens, outputs, Inputs(rows, mask, **positions)

    def _declare_positions(self) -> dict[str, str]:
        """Angles, or distances, by the names of `Inputs`."""
        rope = self.model.rope
        if rope is None:
            shape: Shape = ("batch", 1, 1, "step", self.geometry.rows)
            return {"distance": self.graph.input("distance", np.float32, shape)}
        names = ("cos", "sin", "sink_cos", "sink_sin") if self.geometry.sinks else ("cos", "sin")
        angles = ("batch", "step", rope.head_dim // 2)
        return {name: self.graph.input(name, np.float32, angles) for name in names}

    def _embed(self) -> Rows:
        """Rows of the embedding."""
        graph, matrix = self.graph, Matrix("embed_tokens", (EMBEDDING,), self.shapes.hidden, self.shapes.vocabulary)
        flat = graph.node("Reshape", self.tokens, graph.constant([-1], np.int64))
        if not self.quantized:
            self.embedding = float_weight(graph, matrix)
            return Rows(graph.node("Gather", self.embedding, flat), TOKENS, self.shapes.hidden)
        values, scales = int8_weight(graph, matrix)
        rows = graph.node("Cast", graph.node("Gather", values, flat), to=TensorProto.FLOAT)
        return Rows(graph.node("Mul", rows, graph.node("Gather", scales, flat)), TOKENS, self.shapes.hidden)

    def _attend(self, layer: int, rows: Rows) -> Rows:
        qkv = self._project(layer, "self_attn", ("q_proj", "k_proj", "v_proj"), rows)
        scales = ("", "")
        if self.model.head_norm:
            names = [f"{LAYER}.{layer}.self_attn.{name}_norm.weight" for name in "qk"]
            scales = (self._vector(names[0]), self._vector(names[1]))
        norms = HeadNorms(*scales, self.model.norm.epsilon)
        return Rows(self.attention.attend(layer, self._steps(qkv), norms), TOKENS, self.attention.query_width)

    def _feed_forward(self, layer: int, rows: Rows) -> Rows:
        graph, width = self.graph, self.shapes.intermediate
        if not self.model.gated:
            up = self._project(layer, "mlp", ("up_proj",), rows)
            return self._project(layer, "mlp", ("down_proj",), up.of(self._activate(up.name)))
        both = self._project(layer, "mlp", ("gate_proj", "up_proj"), rows)
        sizes = graph.constant([width, width], np.int64)
        gate, up_name = graph.split("Split", both.name, sizes, out=("", ""), axis=-1)
        mixed = graph.node("Mul", self._activate(gate), up_name)
        return self._project(layer, "mlp", ("down_proj",), Rows(mixed, both.extent, width))

    def _activate(self, rows: str) -> str:
        match self.model.activation:
            case Activation.SILU:
                return self.graph.node("QuickGelu", rows, domain=CONTRIB, alpha=1.0)  # x * sigmoid(x) in one pass
            case Activation.GELU:
                return self.graph.node("Gelu", rows)
            case Activation.GELU_TANH:
                return self.graph.node("Gelu", rows, approximate="tanh")

    def _logits(self, residual: Rows) -> None:
        rows = self._norm(residual, "model.norm")
        if self.model.tied and not self.quantized:
            self.graph.node("Gemm", rows.name, self.embedding, out="logits", transB=1)
            return
        name = EMBEDDING if self.model.tied else HEAD
        matrix = Matrix("lm_head", (name,), self.shapes.hidden, self.shapes.vocabulary)
        logits = self.last_linear.project(self.last_linear.prepare(rows.name, rows.extent), matrix)
        self.graph.node("Identity", logits, out="logits")

    def _project(self, layer: int, part: str, projections: tuple[str, ...], rows: Rows) -> Rows:
        """Multiply by the matrices `projections` of one part of a layer, their outputs side by side."""
        prefix = f"{LAYER}.{layer}.{part}"
        tensors = tuple(f"{prefix}.{name}.weight" for name in projections)
        biases = tuple(name for name in (f"{prefix}.{name}.bias" for name in projections) if name in self.tensors)
        outputs = sum(self.tensors[name][0] for name in tensors)
        matrix = Matrix(f"{prefix}.{'_'.join(projections)}", tensors, rows.width, outputs, biases)
        product = self.linear.project(self.linear.prepare(rows.name, rows.extent), matrix)
        return Rows(product, rows.extent, outputs)

    def _norm(self, rows: Rows, name: str) -> Rows:
        norm = self.model.norm
        vectors = [self._vector(f"{name}.weight"), *([self._vector(f"{name}.bias")] if norm.bias else [])]
        operator = "LayerNormalization" if norm.centred else "RMSNormalization"
        return rows.of(self.graph.node(operator, rows.name, *vectors, axis=-1, epsilon=norm.epsilon))

    def _vector(self, name: str) -> str:
        def produce(tensors: Tensors) -> Iterator[Array]:
            yield tensors.tensor(name)

        return self.graph.weights(WeightGroup((Weight(name, FLOAT, self.tensors[name]),), produce))[0]

    def _add(self, residual: Rows, rows: Rows, state: int) -> Rows:
        return residual.of(self.graph.node("Add", residual.name, rows.name, out=f"{RESIDUAL}_{state}"))

    def _steps(self, rows: Rows) -> str:
        """[batch, step, width] from [tokens, width]."""
        width = self.graph.constant([rows.width], np.int64)
        return self.graph.node("Reshape", rows.name, self.graph.node("Concat", self.batch_step, width, axis=0))

    def _wanted(self, rows: Rows) -> Rows:
        """The rows of the tokens whose logits are wanted. Not by Gather, which reads weights wherever types matter."""
        index = self.graph.node("Unsqueeze", self.outputs, self.graph.constant([1], np.int64))
        return Rows(self.graph.node("GatherND", rows.name, index), OUTPUTS, rows.width)
