"""The Llama graph: embedding, layers of attention and feed-forward, and the logits of every slot's last token.

Inputs and outputs are those that `common.engine` promises to feed; extents `batch` and `step` vary, the rest is
fixed by model and geometry. The residual stream is [tokens, hidden], tokens being batch times step.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnx import TensorProto

from builder_service.attention import Attention, Inputs
from builder_service.checkpoint import Checkpoint
from builder_service.graph import CONTRIB, Array, Graph, Weight, WeightGroup
from builder_service.linear import FLOAT, LINEAR, Activation, Linear, Matrix, float_weight, int8_weight
from builder_service.llama import Llama
from common.spec import Precision
from common.window import Geometry

EMBEDDING = "model.embed_tokens.weight"


def build_graph(llama: Llama, geometry: Geometry, precision: Precision) -> Graph:
    """The whole graph; its weights are described, not read."""
    return _Builder(llama, geometry, precision).build()


class _Builder:
    """One graph in the making."""

    def __init__(self, llama: Llama, geometry: Geometry, precision: Precision) -> None:
        self.llama = llama
        self.shapes = llama.architecture
        self.geometry = geometry
        self.graph = Graph()
        self.linear: Linear = LINEAR[precision](self.graph)
        self.quantized = precision is not Precision.FP32

    def build(self) -> Graph:
        tokens, last, inputs = self._declare_inputs()
        self.graph.output("logits", np.float32, ("batch", self.shapes.vocabulary))
        batch_step = self.graph.node("Shape", tokens)
        attention = Attention(self.graph, self.shapes, self.geometry, inputs)
        residual = self._embed(tokens)
        for layer in range(self.shapes.layers):
            residual = self._attention(layer, residual, batch_step, attention)
            residual = self._feed_forward(layer, residual)
        self._logits(self._last(residual, batch_step, last))
        return self.graph

    def _declare_inputs(self) -> tuple[str, str, Inputs]:
        graph, angles = self.graph, ("batch", "step", self.shapes.head_dim // 2)
        tokens = graph.input("token_ids", np.int64, ("batch", "step"))
        rows = graph.input("write_rows", np.int64, ("batch",))
        mask = graph.input("mask", np.float32, ("batch", 1, 1, "step", self.geometry.rows))
        names = ("cos", "sin", "sink_cos", "sink_sin") if self.geometry.sinks else ("cos", "sin")
        declared = [graph.input(name, np.float32, angles) for name in names]
        last = graph.input("last", np.int64, ("batch",))
        return tokens, last, Inputs(rows, mask, *[*declared, "", ""][:4])

    def _embed(self, tokens: str) -> str:
        """Rows of the embedding, [tokens, hidden]."""
        graph, matrix = self.graph, self._embedding()
        flat = graph.node("Reshape", tokens, graph.constant([-1], np.int64))
        if not self.quantized:
            self.embedding = float_weight(graph, matrix)
            return graph.node("Gather", self.embedding, flat)
        values, scales = int8_weight(graph, matrix)
        rows = graph.node("Cast", graph.node("Gather", values, flat), to=TensorProto.FLOAT)
        return graph.node("Mul", rows, graph.node("Gather", scales, flat))

    def _attention(self, layer: int, residual: str, batch_step: str, attention: Attention) -> str:
        graph, shapes, prefix = self.graph, self.shapes, f"model.layers.{layer}"
        width = attention.query_width + 2 * attention.key_width
        rows = self._prepare(self._norm(residual, f"{prefix}.input_layernorm.weight"))
        projections = ("q_proj", "k_proj", "v_proj")
        matrix = self._matrix(f"{prefix}.self_attn", projections, shapes.hidden, width)
        qkv = self._project(rows, matrix)
        shape = graph.node("Concat", batch_step, graph.constant([width], np.int64), axis=0)
        attended = attention.attend(layer, graph.node("Reshape", qkv, shape))
        matrix = self._matrix(f"{prefix}.self_attn", ("o_proj",), attention.query_width, shapes.hidden)
        return graph.node("Add", residual, self._project(self._prepare(attended), matrix))

    def _feed_forward(self, layer: int, residual: str) -> str:
        graph, shapes, prefix = self.graph, self.shapes, f"model.layers.{layer}"
        rows = self._prepare(self._norm(residual, f"{prefix}.post_attention_layernorm.weight"))
        matrix = self._matrix(f"{prefix}.mlp", ("gate_proj", "up_proj"), shapes.hidden, 2 * shapes.intermediate)
        sizes = graph.constant([shapes.intermediate] * 2, np.int64)
        gate, up = graph.split("Split", self._project(rows, matrix), sizes, out=("", ""), axis=-1)
        silu = graph.node("QuickGelu", gate, domain=CONTRIB, alpha=1.0)  # x * sigmoid(x) in one pass
        matrix = self._matrix(f"{prefix}.mlp", ("down_proj",), shapes.intermediate, shapes.hidden)
        product = self._prepare(graph.node("Mul", silu, up))
        return graph.node("Add", residual, self._project(product, matrix))

    def _last(self, residual: str, batch_step: str, last: str) -> str:
        """The rows of the slots' last tokens, [batch, hidden]."""
        graph = self.graph
        width = graph.constant([self.shapes.hidden], np.int64)
        steps = graph.node("Reshape", residual, graph.node("Concat", batch_step, width, axis=0))
        index = graph.node("Unsqueeze", last, graph.constant([1], np.int64))
        return graph.node("GatherND", steps, index, batch_dims=1)

    def _logits(self, residual: str) -> None:
        rows = self.linear.prepare(self._norm(residual, "model.norm.weight"), "batch")
        if self.llama.tied and not self.quantized:
            self.graph.node("Gemm", rows.rows, self.embedding, out="logits", transB=1)
            return
        name = EMBEDDING if self.llama.tied else "lm_head.weight"
        matrix = Matrix("lm_head", (name,), self.shapes.hidden, self.shapes.vocabulary)
        self.graph.node("Identity", self._project(rows, matrix), out="logits")

    def _embedding(self) -> Matrix:
        return Matrix("embed_tokens", (EMBEDDING,), self.shapes.hidden, self.shapes.vocabulary)

    def _norm(self, rows: str, tensor: str) -> str:
        def produce(checkpoint: Checkpoint) -> Iterator[Array]:
            yield checkpoint.tensor(tensor)

        weight = Weight(tensor, FLOAT, (self.shapes.hidden,))
        (scale,) = self.graph.weights(WeightGroup((weight,), produce))
        return self.graph.node("RMSNormalization", rows, scale, axis=-1, epsilon=self.llama.rms_norm_eps)

    def _matrix(self, prefix: str, projections: tuple[str, ...], inputs: int, outputs: int) -> Matrix:
        tensors = tuple(f"{prefix}.{name}.weight" for name in projections)
        biased = self.llama.mlp_bias if prefix.endswith("mlp") else self.llama.attention_bias
        biases = tuple(f"{prefix}.{name}.bias" for name in projections) if biased else ()
        return Matrix(f"{prefix}.{'_'.join(projections)}", tensors, inputs, outputs, biases)

    def _prepare(self, rows: str) -> Activation:
        return self.linear.prepare(rows, "tokens")

    def _project(self, rows: Activation, matrix: Matrix) -> str:
        return self.linear.project(rows, matrix)
