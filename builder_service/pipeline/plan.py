"""PLAN: read the config, check that everything fits, and refuse now what could only fail later."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from builder_service.chat.derive import DerivedText
from builder_service.families.registry import read_rope
from builder_service.machine.memory import free_disk_bytes, free_memory_bytes
from builder_service.model.model import Model
from builder_service.model.tensors import ModelTensors
from builder_service.model.weight_format import WeightFormat
from builder_service.pipeline.contents import Contents, read_contents, read_tensors, reads_checkpoint_itself
from builder_service.pipeline.estimate import Estimate, check_fits, check_fits_device, estimate
from builder_service.pipeline.messages import Order, Parent
from builder_service.pipeline.resolve import ResolvedSource
from builder_service.queue.build import Stage
from common.spec.manifest import Architecture, GenerationDefaults, Rope
from common.window import Geometry


@dataclass(frozen=True)
class Plan:
    """What will be built, and where its files go before they are stored."""

    model: Model
    tensors: ModelTensors
    weight_format: WeightFormat
    rope: Rope
    geometry: Geometry
    text: DerivedText
    tokenizer: Tokenizer | None
    end_token_ids: tuple[int, ...]
    generation: GenerationDefaults
    warnings: tuple[str, ...]
    out: Path

    @property
    def architecture(self) -> Architecture:
        """Shapes of the model."""
        return self.model.architecture


def make_plan(order: Order, source: ResolvedSource, parent: Parent) -> Plan:
    """The whole stage. Raises what reading the checkpoint raises, and ResourceExhausted for what does not fit."""
    parent.progress(Stage.PLAN, 0.0)
    spec, checkpoint, geometry = order.spec, source.checkpoint, order.spec.geometry
    contents = read_contents(spec, checkpoint, source.today)
    model = contents.model
    tensors = read_tensors(spec, checkpoint, model)
    weight_format = tensors.weight_format(spec)
    needs = estimate(model.architecture, geometry, weight_format, spec.target)
    parent.expect(needs)
    _check_fits(order, source, needs)
    _log_plan(contents, needs, parent)
    plan = Plan(
        model=model,
        tensors=tensors,
        weight_format=weight_format,
        rope=read_rope(model, geometry),
        geometry=geometry,
        text=contents.text,
        tokenizer=checkpoint.tokenizer.library if checkpoint.tokenizer else None,
        end_token_ids=contents.end_token_ids,
        generation=contents.generation,
        warnings=contents.warnings,
        out=order.work / "engine",
    )
    parent.progress(Stage.PLAN, 1.0)
    return plan


def _check_fits(order: Order, source: ResolvedSource, needs: Estimate) -> None:
    if not reads_checkpoint_itself(order.spec):
        check_fits(needs, free_memory_bytes(), free_disk_bytes(order.work), order.work)
    if source.machine is not None:
        check_fits_device(needs, source.machine.free_bytes)


def _log_plan(contents: Contents, needs: Estimate, parent: Parent) -> None:
    for warning in contents.warnings:
        parent.log(f"warning: {warning}")
    parent.log(
        f"{contents.model.architecture.parameters:,} parameters; "
        f"about {needs.weight_bytes / 2**20:,.0f} MiB of weights, {needs.kv_bytes_per_slot / 2**20:,.1f} MiB of keys "
        f"and values a slot, {needs.memory_bytes / 2**20:,.0f} MiB of memory for the build"
    )
