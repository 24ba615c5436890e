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
from builder_service.graph.attention.attention import Attention, HeadNorms
from builder_service.graph.attention.narrow_attention import NarrowAttention
from builder_service.graph.experts import Mixture
from builder_service.graph.few_bits import FewBitLinear
from builder_service.graph.graph import CONTRIB, Array, Graph, Weight, WeightGroup
from builder_service.graph.inputs import OUTPUTS, ROWS, declare_inputs
from builder_service.graph.kept import KeptLinear
from builder_service.graph.linear import FLOAT, LINEAR, Linear, Matrix, float_weight, int8_weight
from builder_service.model.model import (
    ATTENTION_NORM,
    ATTENTION_OUTPUT_NORM,
    EMBEDDING,
    HEAD,
    HEAD_BIAS,
    LAYER,
    MLP_NORM,
    MLP_OUTPUT_NORM,
    Activation,
    Model,
    tensor_shapes,
)
from builder_service.model.turned_tensors import inner_basis
from builder_service.model.weight_format import ROUNDED, WeightFormat, block_formats
from common.window import Geometry

TOKENS = "tokens"  # an extent, as OUTPUTS
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
    """The whole graph; its weights are described, not read.

    `value_columns`: the cache holds values by column, and has as many rows as a step reads.
    """
    return _Builder(model, geometry, weight_format, value_columns=value_columns).build()


class _Builder:
    """One graph in the making."""

    def __init__(self, model: Model, geometry: Geometry, weight_format: WeightFormat, *, value_columns: bool) -> None:
        self.model = model
        self.shapes = model.architecture
        self.graph = Graph()
        self.tensors = tensor_shapes(model)
        self.formats = block_formats(model, weight_format)
        self.kept, self.linear = self._linear(weight_format)
        hidden = self.shapes.hidden
        self.mixture = Mixture(self.graph, model.experts, hidden, weight_format) if model.experts else None
        self.turned = weight_format.turned
        self.inner = inner_basis(model, weight_format)
        self.quantized = EMBEDDING in self.formats if self.kept else weight_format.turned
        rows = ROWS if value_columns else geometry.rows
        self.inputs = declare_inputs(self.graph, model, geometry, rows)
        self.batch_step = self.graph.node("Shape", self.inputs.tokens)
        attention = NarrowAttention if weight_format.narrow_cache else Attention
        self.attention = attention(
            self.graph,
            self.shapes,
            geometry.sinks,
            rows,
            self.inputs,
            rotary_dim=model.rope.head_dim if model.rope else 0,
            interleaved=model.interleaved,
            scale=model.scales.scores,
            cap=model.scales.score_cap,
            alibi_slopes=model.alibi_slopes,
            value_columns=value_columns,
        )
        self.embedding = ""  # float32 rows, once they are declared

    def _linear(self, weight_format: WeightFormat) -> tuple[KeptLinear | None, Linear]:
        """How matrices are multiplied; the first of the two where rows of the embedding can be looked up by it too."""
        precision = weight_format.precision
        if weight_format.on_gpu and precision in ROUNDED:
            return None, FewBitLinear(self.graph, self.formats, self.tensors)
        if precision in LINEAR:
            return None, LINEAR[precision](self.graph)
        kept = KeptLinear(self.graph, self.formats, self.tensors)
        return kept, kept

    def build(self) -> Graph:
        self.graph.output("logits", np.float32, (OUTPUTS, self.shapes.vocabulary))
        residual = self._embed()
        for layer in range(self.shapes.layers):
            normed = self._layer_norm(layer, ATTENTION_NORM, residual)
            attended = self._attend(layer, normed)
            if layer == self.shapes.layers - 1:  # from here on, only the wanted tokens' rows lead to an output
                normed = self._wanted(normed) if self.model.shared_norm else normed
                attended, residual = self._wanted(attended), self._wanted(residual)
            written = self._layer_norm(
                layer, ATTENTION_OUTPUT_NORM, self._project(layer, "self_attn", ("o_proj",), attended)
            )
            before, residual = residual, self._add(residual, written, 2 * layer)
            if not self.model.shared_norm:
                normed = self._layer_norm(layer, MLP_NORM, before if self.model.parallel else residual)
            written = self._layer_norm(layer, MLP_OUTPUT_NORM, self._feed_forward(layer, normed))
            residual = self._add(residual, written, 2 * layer + 1)
        self._logits(residual)
        return self.graph

    def _embed(self) -> Rows:
        """Rows of the embedding."""
        graph, matrix = self.graph, Matrix("embed_tokens", (EMBEDDING,), self.shapes.hidden, self.shapes.vocabulary)
        flat = graph.node("Reshape", self.inputs.tokens, graph.constant([-1], np.int64))
        if self.quantized and self.kept:
            rows = self.kept.gather(EMBEDDING, flat)
        elif self.quantized:
            values, scales = int8_weight(graph, matrix)
            rows = graph.node("Cast", graph.node("Gather", values, flat), to=TensorProto.FLOAT)
            rows = graph.node("Mul", rows, graph.node("Gather", scales, flat))
        else:
            self.embedding = float_weight(graph, matrix)
            rows = graph.node("Gather", self.embedding, flat)
        return Rows(self._scaled(rows, self.model.scales.embedding), TOKENS, self.shapes.hidden)

    def _attend(self, layer: int, rows: Rows) -> Rows:
        qkv = self._project(layer, "self_attn", ("q_proj", "k_proj", "v_proj"), rows)
        scales = ("", "")
        if self.model.head_norm:
            names = [f"{LAYER}.{layer}.self_attn.{name}_norm.weight" for name in "qk"]
            scales = (self._vector(names[0]), self._vector(names[1]))
        norms = HeadNorms(*scales, self.model.norm.epsilon, self.model.joint_head_norm)
        mixed = self.attention.attend(layer, self._steps(qkv), norms, self.inputs.rotation(self.model, layer))
        return Rows(mixed, TOKENS, self.attention.query_width)

    def _feed_forward(self, layer: int, rows: Rows) -> Rows:
        graph, width = self.graph, self.shapes.intermediate
        if self.mixture is not None:
            return rows.of(self.mixture.mix(f"{LAYER}.{layer}.mlp", rows.name, rows.extent))
        if not self.model.gated:
            up = self._project(layer, "mlp", ("up_proj",), rows)
            return self._down(layer, up.of(self._activate(up.name)))
        both = self._project(layer, "mlp", ("gate_proj", "up_proj"), rows)
        sizes = graph.constant([width, width], np.int64)
        gate, up_name = graph.split("Split", both.name, sizes, out=("", ""), axis=-1)
        mixed = graph.node("Mul", self._activate(gate), up_name)
        return self._down(layer, Rows(mixed, both.extent, width))

    def _down(self, layer: int, rows: Rows) -> Rows:
        """The last product of a feed-forward layer, in the basis in which its matrix is held."""
        if (basis := self.inner) is not None:
            groups = self.graph.node("Reshape", rows.name, self.graph.constant([-1, basis.width], np.int64))
            turned = self.graph.node("MatMul", groups, self.graph.constant(basis.matrix(), np.float32))
            rows = rows.of(self.graph.node("Reshape", turned, self.graph.constant([-1, rows.width], np.int64)))
        return self._project(layer, "mlp", ("down_proj",), rows)

    def _activate(self, rows: str) -> str:
        match self.model.activation:
            case Activation.SILU:
                return self.graph.node("QuickGelu", rows, domain=CONTRIB, alpha=1.0)  # x * sigmoid(x) in one pass
            case Activation.GELU:
                return self.graph.node("Gelu", rows)
            case Activation.GELU_TANH:
                return self.graph.node("Gelu", rows, approximate="tanh")
            case Activation.RELU_SQUARED:
                positive = self.graph.node("Relu", rows)
                return self.graph.node("Mul", positive, positive)

    def _logits(self, residual: Rows) -> None:
        scales = self.model.scales
        cap = scales.logit_cap or 1.0
        rows = self._scaled(self._norm(residual, "model.norm").name, scales.logits / cap)
        logits = self._head(rows, residual.extent)
        logits = self.graph.node("Tanh", logits) if scales.logit_cap else logits
        self.graph.node("Identity", self._scaled(logits, cap), out="logits")

    def _head(self, rows: str, extent: str) -> str:
        """Multiply by the output matrix: [extent, vocabulary]."""
        if self.model.tied and not self.quantized and EMBEDDING not in self.formats:
            return self.graph.node("Gemm", rows, self.embedding, transB=1)
        name = EMBEDDING if self.model.tied and not self.turned else HEAD
        biases = (HEAD_BIAS,) if self.model.head_bias else ()
        stem = name.removesuffix(".weight")
        matrix = Matrix(stem, (name,), self.shapes.hidden, self.shapes.vocabulary, biases)
        return self.linear.project(self.linear.prepare(rows, extent), matrix)

    def _project(self, layer: int, part: str, projections: tuple[str, ...], rows: Rows) -> Rows:
        """Multiply by the matrices `projections` of one part of a layer, their outputs side by side."""
        prefix = f"{LAYER}.{layer}.{part}"
        tensors = tuple(f"{prefix}.{name}.weight" for name in projections)
        biases = tuple(name for name in (f"{prefix}.{name}.bias" for name in projections) if name in self.tensors)
        outputs = sum(self.tensors[name][0] for name in tensors)
        matrix = Matrix(f"{prefix}.{'_'.join(projections)}", tensors, rows.width, outputs, biases)
        product = self.linear.project(self.linear.prepare(rows.name, rows.extent), matrix)
        return Rows(product, rows.extent, outputs)

    def _layer_norm(self, layer: int, norm: str, rows: Rows) -> Rows:
        """One of a layer's norms; rows as they are where the model has none there."""
        name = f"{LAYER}.{layer}.{norm}"
        return self._norm(rows, name) if f"{name}.weight" in self.tensors else rows

    def _norm(self, rows: Rows, name: str) -> Rows:
        norm = self.model.norm
        vectors = [self._vector(f"{name}.weight"), *([self._vector(f"{name}.bias")] if norm.bias else [])]
        operator = "LayerNormalization" if norm.centred else "RMSNormalization"
        return rows.of(self.graph.node(operator, rows.name, *vectors, axis=-1, epsilon=norm.epsilon))

    def _vector(self, name: str) -> str:
        one = np.float32(self.model.norm.from_one and name.endswith(".weight"))

        def produce(tensors: Tensors) -> Iterator[Array]:
            yield one + tensors.tensor(name)

        return self.graph.weights(WeightGroup((Weight(name, FLOAT, self.tensors[name]),), produce))[0]

    def _add(self, residual: Rows, rows: Rows, state: int) -> Rows:
        added = self._scaled(rows.name, self.model.scales.residual)
        return residual.of(self.graph.node("Add", residual.name, added, out=f"{RESIDUAL}_{state}"))

    def _scaled(self, rows: str, factor: float) -> str:
        return rows if factor == 1 else self.graph.node("Mul", rows, self.graph.constant(factor, np.float32))

    def _steps(self, rows: Rows) -> str:
        """[batch, step, width] from [tokens, width]."""
        width = self.graph.constant([rows.width], np.int64)
        return self.graph.node("Reshape", rows.name, self.graph.node("Concat", self.batch_step, width, axis=0))

    def _wanted(self, rows: Rows) -> Rows:
        """The rows of the tokens whose logits are wanted. Not by Gather, which reads weights wherever types matter."""
        index = self.graph.node("Unsqueeze", self.inputs.outputs, self.graph.constant([1], np.int64))
        return Rows(self.graph.node("GatherND", rows.name, index), OUTPUTS, rows.width)
