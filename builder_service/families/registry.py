"""The families that can be built, by the class that config.json names."""

from __future__ import annotations

from collections.abc import Collection

from builder_service.families.falcon import FALCON
from builder_service.families.family import Family
from builder_service.families.gpt_neox import GPT_NEOX
from builder_service.families.llama import LLAMA, MISTRAL, QWEN2, QWEN3
from builder_service.families.mpt import MPT
from builder_service.families.phi3 import PHI3
from builder_service.model.config_fields import check_fields
from builder_service.model.config_values import Config
from builder_service.model.model import Model, counted
from builder_service.model.rope import compute_rope
from common.errors import InvalidArgument, Reason
from common.spec.manifest import Architecture, Rope
from common.window import Geometry

FAMILIES: tuple[Family, ...] = (LLAMA, MISTRAL, QWEN2, QWEN3, PHI3, GPT_NEOX, FALCON, MPT)


def read_model(config: Config, ignore: Collection[str] = ()) -> Model:
    """Read config.json; `ignore` are unknown fields that the spec declares safe.

    Raises InvalidArgument: ARCHITECTURE_UNSUPPORTED, or CONFIG_UNSUPPORTED with the field.
    """
    family = _family(config)
    check_fields(config, family.fields, ignore)
    return counted(family.read(config))


def read_architecture(config: Config, ignore: Collection[str] = ()) -> Architecture:
    """Shapes of the model; raises as `read_model`."""
    return read_model(config, ignore).architecture


def read_rope(model: Model, geometry: Geometry) -> Rope:
    """Rotation for an engine of this geometry; no frequencies where the model uses ALiBi."""
    if model.rope is None:
        return Rope(inverse_frequencies=())
    return compute_rope(model.rope, geometry.sinks + geometry.window)


def _family(config: Config) -> Family:
    named = config.get("architectures")
    name = named[0] if isinstance(named, list) and named else "none"
    for family in FAMILIES:
        if name in family.architectures and config.get("model_type", family.name) == family.name:
            return family
    known = ", ".join(f"{family.architectures[0]} (model type {family.name})" for family in FAMILIES)
    message = f"architecture {name} (model type {config.get('model_type')}) is not supported; supported: {known}"
    raise InvalidArgument(
        Reason.ARCHITECTURE_UNSUPPORTED, message, field="source.config.json.architectures", architecture=str(name)
    )
