"""PLAN: read the config, check that everything fits, and refuse now what could only fail later."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from builder_service.chat.derive import DerivedText, derive_text
from builder_service.checkpoint.checkpoint import Checkpoint
from builder_service.checkpoint.generation_config import end_tokens, generation_defaults
from builder_service.families.registry import read_model, read_rope
from builder_service.machine.memory import free_disk_bytes, free_memory_bytes
from builder_service.model.model import Model, check_geometry
from builder_service.model.tensors import ModelTensors
from builder_service.model.weight_format import WeightFormat
from builder_service.pipeline.estimate import Estimate, check_fits, check_fits_device, estimate
from builder_service.pipeline.messages import Order, Parent
from builder_service.pipeline.resolve import ResolvedSource
from builder_service.queue.build import Stage
from common.spec.manifest import Architecture, GenerationDefaults, Rope
from common.spec.model_spec import ModelSpec, Target
from common.window import Geometry


@dataclass(frozen=True)
class Plan:
    """What will be built, and where its files go before they are stored."""

    model: Model
    tensors: ModelTensors
    rope: Rope
    geometry: Geometry
    text: DerivedText
    end_token_ids: tuple[int, ...]
    generation: GenerationDefaults
    out: Path

    @property
    def architecture(self) -> Architecture:
        """Shapes of the model."""
        return self.model.architecture


def make_plan(order: Order, source: ResolvedSource, parent: Parent) -> Plan:
    """The whole stage. Raises what reading the checkpoint raises, and ResourceExhausted for what does not fit."""
    parent.progress(Stage.PLAN, 0.0)
    spec, checkpoint, geometry = order.spec, source.checkpoint, order.spec.geometry
    model = _read_model(spec, checkpoint, geometry)
    tensors = ModelTensors(checkpoint.tensors, model)
    if not _reads_checkpoint_itself(spec):
        tensors.check()
    needs = estimate(model.architecture, geometry, WeightFormat.from_spec(spec), spec.target)
    parent.expect(needs)
    _check_fits(order, source, needs)
    text = derive_text(checkpoint, spec.chat_template, model.architecture.vocabulary, source.today)
    ends = end_tokens(checkpoint.config, checkpoint.generation_config, model.architecture.vocabulary)
    _log_plan(model, text, needs, parent)
    plan = Plan(
        model=model,
        tensors=tensors,
        rope=read_rope(model, geometry),
        geometry=geometry,
        text=text,
        end_token_ids=tuple(sorted({*ends, *text.end_token_ids})),
        generation=generation_defaults(checkpoint.generation_config),
        out=order.work / "engine",
    )
    parent.progress(Stage.PLAN, 1.0)
    return plan


def _read_model(spec: ModelSpec, checkpoint: Checkpoint, geometry: Geometry) -> Model:
    ignored = spec.options.ignore_config_fields
    if _reads_checkpoint_itself(spec):
        ignored = (*ignored, "quantization_config")
    model = read_model(checkpoint.config, ignored)
    check_geometry(model.architecture, geometry)
    return model


def _reads_checkpoint_itself(spec: ModelSpec) -> bool:
    """Whether the target reads the checkpoint's weights at load, quantized or not; the builder writes none then."""
    return spec.target is Target.TENSORRT_LLM


def _check_fits(order: Order, source: ResolvedSource, needs: Estimate) -> None:
    if not _reads_checkpoint_itself(order.spec):
        check_fits(needs, free_memory_bytes(), free_disk_bytes(order.work), order.work)
    if source.machine is not None:
        check_fits_device(needs, source.machine.free_bytes)


def _log_plan(model: Model, text: DerivedText, needs: Estimate, parent: Parent) -> None:
    for warning in text.warnings:
        parent.log(f"warning: {warning}")
    parent.log(
        f"{model.architecture.parameters:,} parameters; "
        f"about {needs.weight_bytes / 2**20:,.0f} MiB of weights, {needs.kv_bytes_per_slot / 2**20:,.1f} MiB of keys "
        f"and values a slot, {needs.memory_bytes / 2**20:,.0f} MiB of memory for the build"
    )
