"""A spec that suits a checkpoint: what `spec init` writes and `run` builds. Reads config.json; prints nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder_service.checkpoint import Checkpoint
from builder_service.estimate import Estimate, estimate
from builder_service.families import read_architecture
from builder_service.model import check_geometry
from builder_service.source import source_path
from common.manifest import Architecture
from common.spec import ModelSpec, Precision, Target
from common.spec_check import check_spec
from common.window import Geometry

SINKS = 4
LONGEST_WINDOW = 4096
SMALL_MODEL = 200_000_000  # parameters that a processor reads in fp32 at a talking pace


@dataclass(frozen=True)
class Wishes:
    """What a person asked for; None where a default will do."""

    name: str | None = None
    precision: Precision | None = None
    window: int | None = None
    sinks: int | None = None
    slots: int | None = None
    target: Target = Target.ONNXRUNTIME


def suggest_spec(folder: Path, wishes: Wishes) -> ModelSpec:
    """A spec for the checkpoint in `folder`. Raises what reading a checkpoint or checking a spec raises."""
    config = Checkpoint(folder).config
    shapes = read_architecture(config)
    sinks = SINKS if wishes.sinks is None else wishes.sinks
    window = wishes.window or min(LONGEST_WINDOW, max(1, shapes.longest_context - sinks))
    spec = check_spec(
        {
            "name": wishes.name or engine_name(folder),
            "source": {"uri": str(folder.resolve())},
            "target": wishes.target,
            "precision": wishes.precision or suit_precision(wishes.target, shapes, config),
            "cache": {"sink_tokens": sinks, "window_tokens": window, "max_slots": wishes.slots or 8},
        },
        prefix="",
    )
    check_geometry(shapes, geometry_of(spec))
    return spec


def read_needs(spec: ModelSpec) -> tuple[Architecture, Estimate]:
    """The shapes of a spec's checkpoint and what its engine needs. Raises what the builder would."""
    checkpoint = Checkpoint(source_folder(spec))
    shapes = read_architecture(checkpoint.config, spec.options.ignore_config_fields)
    check_geometry(shapes, geometry_of(spec))
    return shapes, estimate(shapes, geometry_of(spec), spec.precision, spec.target)


def engine_name(folder: Path) -> str:
    """A name for an engine, from its checkpoint's folder."""
    name = re.sub(r"[^a-z0-9._-]+", "-", folder.resolve().name.lower()).strip("-._")
    return name[:63] or "model"


def suit_precision(target: Target, shapes: Architecture, config: Mapping[str, Any]) -> Precision:
    """On a processor fp32 for a small model, int8 for another; on a GPU 16 bits, with the checkpoint's own range."""
    if target is Target.ONNXRUNTIME:
        return Precision.FP32 if shapes.parameters < SMALL_MODEL else Precision.INT8
    kept = config.get("dtype") or config.get("torch_dtype")
    return Precision.BF16 if kept == "bfloat16" else Precision.FP16


def geometry_of(spec: ModelSpec) -> Geometry:
    """The cache of a spec, as the planner sees it."""
    cache = spec.cache
    return Geometry(cache.sink_tokens, cache.window_tokens, cache.chunk_tokens, cache.max_slots)


def source_folder(spec: ModelSpec) -> Path:
    """The checkpoint's folder here; raises InvalidArgument (INVALID_SPEC) if the URI names none."""
    return source_path(spec.source.uri)
