"""A spec that suits a checkpoint: what `spec init` writes and `run` builds. Prints nothing.

Reads config.json, and fetches it where it is elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from builder_service.checkpoint.checkpoint import BlockFormat, Checkpoint
from builder_service.checkpoint.folder import FolderCheckpoint
from builder_service.checkpoint.gguf.names import is_gguf, model_name
from builder_service.families.registry import read_architecture, read_model
from builder_service.model.model import Model, check_geometry
from builder_service.model.tensors import ModelTensors
from builder_service.model.weight_format import WeightFormat
from builder_service.pipeline.estimate import Estimate, estimate
from builder_service.sources.uri import Folder, Place, Repository, read_adapter_place, read_place
from common.spec.chat.template_choices import Value
from common.spec.checks import check_spec
from common.spec.manifest import Architecture
from common.spec.model_spec import ModelSpec, Precision, Source, Target
from sinkserve.cli.terminal.engine_choice import PrecisionChoice, choose_precision

PINNED_SINKS = 256  # room for a system prompt
FEWEST_SINKS = 4  # what the paper's models need to stay fluent
SINKS_SHARE = 8  # sinks take at most one part in so many of the context
LONGEST_WINDOW = 4096


@dataclass(frozen=True)
class SpecChoices:
    """The fields that a person chose; None where a default will do."""

    name: str | None = None
    precision: Precision | None = None
    window: int | None = None
    sinks: int | None = None
    slots: int | None = None
    target: Target = Target.ONNXRUNTIME
    variables: Mapping[str, Value] = field(default_factory=dict)
    """What the chat template gets by name."""


@dataclass(frozen=True)
class Suggestion:
    """A spec, and why its weights are held as they are."""

    spec: ModelSpec
    precision_reason: str


def suggest_spec(checkpoint: Checkpoint, source: Source, choices: SpecChoices) -> Suggestion:
    """A spec for the checkpoint of a source. Raises what reading a checkpoint or checking a spec raises."""
    shapes = read_architecture(checkpoint.config)
    chosen = choose_precision(choices.target, checkpoint, shapes)
    if choices.precision is not None:
        chosen = PrecisionChoice(choices.precision, "as asked for")
    sinks = suit_sinks(shapes.longest_context, choices.window or 0) if choices.sinks is None else choices.sinks
    window = choices.window or suit_window(shapes.longest_context, sinks)
    spec = check_spec(
        {
            "name": choices.name or engine_name(source),
            "source": source.model_dump(),
            "target": choices.target,
            "precision": chosen.precision,
            "cache": {"sink_tokens": sinks, "window_tokens": window, "max_slots": choices.slots or 8},
            "template_variables": choices.variables,
        },
        prefix="",
    )
    check_geometry(shapes, spec.geometry)
    return Suggestion(spec, chosen.reason)


def read_needs(checkpoint: Checkpoint, spec: ModelSpec) -> tuple[Architecture, Estimate]:
    """The shapes of a spec's checkpoint and what its engine needs. Raises what the builder would."""
    model = read_model(checkpoint.config, spec.options.ignore_config_fields)
    check_geometry(model.architecture, spec.geometry)
    weight_format = WeightFormat.from_spec(spec)
    if spec.precision is Precision.KEEP:
        weight_format = _kept_format(checkpoint, model, spec)
    return model.architecture, estimate(model.architecture, spec.geometry, weight_format, spec.target)


def _kept_format(checkpoint: Checkpoint, model: Model, spec: ModelSpec) -> WeightFormat:
    """How kept weights are held; where they are elsewhere, about that: all but the embeddings as config.json says."""
    packing = checkpoint.packing if isinstance(checkpoint, FolderCheckpoint) else None
    if packing is None or isinstance(read_place(spec.source), Folder):
        return ModelTensors(checkpoint.tensors, model).weight_format(spec)
    shapes = model.architecture
    floats = shapes.vocabulary * shapes.hidden * (1 if model.tied else 2)
    each = BlockFormat(packing.bits, packing.group or shapes.hidden).bytes_each
    size_bytes = 4 * floats + each * (shapes.parameters - floats)
    return replace(WeightFormat.from_spec(spec), kept_bytes_each=size_bytes / shapes.parameters)


def source_of(where: Path | str, adapter: Path | str | None = None) -> Source:
    """The source that a person named, and its adapter: a URI, or a folder or GGUF file as seen from here."""
    return Source(uri=_uri_of(where), adapter="" if adapter is None else _uri_of(adapter))


def _uri_of(where: Path | str) -> str:
    if "://" in str(where):
        return str(where)
    path = Path(where).expanduser()
    # The name of a GGUF file says what it is, and a link's target may have another.
    return str(path.parent.resolve() / path.name if is_gguf(path.name) else path.resolve())


def engine_name(source: Source) -> str:
    """A name for an engine, from its checkpoint's folder, repository or file, and its adapter's. Raises what
    `read_place` does.
    """
    places = (read_place(source), read_adapter_place(source))
    name = "-".join(filter(None, (_name_of(place) for place in places if place)))
    return name[:63].strip("-._") or "model"


def _name_of(place: Place) -> str:
    path = place.path.name if isinstance(place, Folder) else place.uri if isinstance(place, Repository) else str(place)
    return re.sub(r"[^a-z0-9._-]+", "-", model_name(path.rpartition("/")[2]).lower()).strip("-._")


def suit_sinks(context: int, window: int) -> int:
    """Sinks beside a window that was asked for (0: none was), all in tokens: a system prompt's where there is room."""
    most = context // SINKS_SHARE
    if min(most, context - window) >= PINNED_SINKS:
        return PINNED_SINKS
    return min(FEWEST_SINKS, most)


def suit_window(context: int, sinks: int) -> int:
    """Tokens of window: what the sinks leave of the context, and not so much that a slot becomes huge."""
    return min(LONGEST_WINDOW, max(1, context - sinks))
