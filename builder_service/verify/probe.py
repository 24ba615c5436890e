"""An engine on ONNX Runtime whose residual stream can be read: its own graph, with those values as outputs too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from builder_service.graph.engine_weights import EngineWeights
from builder_service.graph.transformer import RESIDUAL
from builder_service.model.model import Model
from common.engine.batch import Batch
from common.engine.engine import Feed
from common.engine.onnxruntime_engine import OnnxRuntimeEngine
from common.engine.slot_layout import Place
from common.spec.manifest import Rope
from common.window import Geometry


class Probe(OnnxRuntimeEngine):
    """The engine in `graph`, which ends in bit-equal logits (tried in every precision).

    The residual stream has two states a layer, behind attention and behind the feed-forward part, RESIDUAL 0, 1, ...
    """

    def __init__(self, graph: Path, model: Model, rope: Rope, geometry: Geometry) -> None:
        architecture = model.architecture
        self.weights = EngineWeights(graph, model)
        self.states = 2 * architecture.layers
        self.hidden = architecture.hidden
        copy = graph.with_name(f"probe-{graph.name}")
        copy.write_bytes(_with_outputs(graph, self.states))
        try:
            super().__init__(copy, architecture, rope, geometry)
        finally:
            copy.unlink()
        self._batch: Batch
        self._residuals: list[npt.NDArray[np.float32]] = []

    @property
    def step_tokens(self) -> int:
        """Of each slot in the last step, padding included."""
        return self._batch.step

    def residuals(self, slot: int) -> list[npt.NDArray[np.float32]]:
        """What a slot's tokens of the last step made of the stream: [tokens, hidden] for every state.

        Of the two of the last layer the last token's alone, for no more is computed.
        """
        batch, place = self._batch, slot - self._batch.first
        first, count = place * batch.step, len(batch.feeds[place].tokens)
        own = [rows[first : first + count] for rows in self._residuals[:-2]]
        return [*own, *(rows[place : place + 1] for rows in self._residuals[-2:])]

    def _prepare(self, feeds: tuple[Feed, ...]) -> tuple[Batch, Any]:
        self._batch, binding = super()._prepare(feeds)
        return self._batch, binding

    def _bind(self, first: Place, size: int, step: int, outputs: int) -> Any:  # noqa: ANN401 - onnxruntime has no types
        binding = super()._bind(first, size, step, outputs)
        for state in range(self.states):
            binding.bind_output(f"{RESIDUAL}_{state}", "cpu")
        return binding

    def _run(self, binding: Any) -> None:  # noqa: ANN401 - onnxruntime publishes no types
        super()._run(binding)
        self._residuals = [value.numpy() for value in binding.get_outputs()[-self.states :]]


def _with_outputs(graph: Path, states: int) -> bytes:
    model = onnx.load(graph, load_external_data=False)
    names = (f"{RESIDUAL}_{state}" for state in range(states))
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    return bytes(model.SerializeToString())
