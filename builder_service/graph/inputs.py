"""The inputs that `common.engine.step_inputs` fills, but for the caches, which attention declares as it meets them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from builder_service.graph.graph import Graph, Shape
from builder_service.model.model import Model
from common.window import Geometry

OUTPUTS = "outputs"  # an extent: the tokens whose logits are wanted
ROWS = "rows"  # an extent: the rows of cache that a step reads, where it does not read all


@dataclass(frozen=True)
class Rotation:
    """What a layer rotates by: names of [batch, step, rotated dim / 2]; empty for a layer that does not rotate."""

    cos: str = ""
    sin: str = ""
    sink_cos: str = ""  # empty without sinks
    sink_sin: str = ""


@dataclass(frozen=True)
class Inputs:
    """Names of the inputs that all layers share."""

    tokens: str  # [batch, step]
    write_rows: str  # [batch]
    mask: str  # [batch, 1, 1, step, rows]
    distance: str  # [batch, 1, 1, step, rows]; empty but with ALiBi
    rotations: tuple[Rotation, ...]
    """The rotation of most layers, then that of local ones, where they have their own; none with ALiBi."""
    outputs: str  # [outputs]

    def rotation(self, model: Model, layer: int) -> Rotation:
        """What a layer rotates by."""
        if not self.rotations or layer in model.unrotated_layers:
            return Rotation()
        return self.rotations[1 if layer in model.local_layers else 0]


def declare_inputs(graph: Graph, model: Model, geometry: Geometry, rows: int | str) -> Inputs:
    """Declare them in the order in which they are listed; `rows` of every slot are read."""
    per_row: Shape = ("batch", 1, 1, "step", rows)
    return Inputs(
        tokens=graph.input("token_ids", np.int64, ("batch", "step")),
        write_rows=graph.input("write_rows", np.int64, ("batch",)),
        mask=graph.input("mask", np.float32, per_row),
        distance=graph.input("distance", np.float32, per_row) if model.rope is None else "",
        rotations=_declare_angles(graph, model, geometry),
        outputs=graph.input("outputs", np.int64, (OUTPUTS,)),
    )


def _declare_angles(graph: Graph, model: Model, geometry: Geometry) -> tuple[Rotation, ...]:
    """Angles of all rotations come side by side."""
    names = ("cos", "sin", "sink_cos", "sink_sin") if geometry.sinks else ("cos", "sin")
    halves = [rope.head_dim // 2 for rope in (model.rope, model.local_rope) if rope is not None]
    if not halves:
        return ()
    angles = [graph.input(name, np.float32, ("batch", "step", sum(halves))) for name in names]
    if len(halves) == 1:
        return (Rotation(*angles),)
    sizes, out = graph.constant(halves, np.int64), ("",) * len(halves)
    parts = [graph.split("Split", name, sizes, out=out, axis=-1) for name in angles]
    return tuple(Rotation(*rotation) for rotation in zip(*parts, strict=True))
