"""The families that can be built, by the class that config.json names."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from builder_service.families.falcon import FALCON
from builder_service.families.family import Family, Wrapper
from builder_service.families.gemma import GEMMAS
from builder_service.families.gpt_neox import GPT_NEOX
from builder_service.families.interleaved import INTERLEAVED
from builder_service.families.layer_normed import LAYER_NORMED
from builder_service.families.llama import LLAMA, MISTRAL, QWEN2, QWEN3, QWEN3_MOE
from builder_service.families.llama_kin import LLAMA_KIN
from builder_service.families.mpt import MPT
from builder_service.families.phi3 import PHI3
from builder_service.families.post_normed import POST_NORMED
from builder_service.families.with_images import WITH_IMAGES
from builder_service.model.config_fields import check_fields, unsupported
from builder_service.model.config_values import Config
from builder_service.model.model import Model, counted
from builder_service.model.rope import compute_rope
from common.errors import InvalidArgument, Reason
from common.spec.manifest import Architecture, Rope
from common.window import Geometry

FAMILIES: tuple[Family | Wrapper, ...] = (
    *(LLAMA, MISTRAL, QWEN2, QWEN3, QWEN3_MOE, *LLAMA_KIN, PHI3, *GEMMAS, *POST_NORMED, *INTERLEAVED, *LAYER_NORMED),
    *(GPT_NEOX, FALCON, MPT, *WITH_IMAGES),
)


def read_model(config: Config, ignore: Collection[str] = ()) -> Model:
    """Read config.json; `ignore` are unknown fields that the spec declares safe.

    Raises InvalidArgument: ARCHITECTURE_UNSUPPORTED, or CONFIG_UNSUPPORTED with the field.
    """
    family = _family(config)
    check_fields(config, family.fields, ignore)
    return counted(family.read(config) if isinstance(family, Family) else _read_text(family, config, ignore))


def read_architecture(config: Config, ignore: Collection[str] = ()) -> Architecture:
    """Shapes of the model; raises as `read_model`."""
    return read_model(config, ignore).architecture


def read_rope(model: Model, geometry: Geometry) -> Rope:
    """Rotation for an engine of this geometry; no frequencies where the model uses ALiBi."""
    if model.rope is None:
        return Rope(inverse_frequencies=())
    rope = compute_rope(model.rope, geometry.sinks + geometry.window)
    if model.local_rope is None:
        return rope
    local = compute_rope(model.local_rope, geometry.sinks + geometry.window)
    return rope.model_copy(
        update={
            "local_inverse_frequencies": local.inverse_frequencies,
            "local_attention_scale": local.attention_scale,
        }
    )


def _read_text(wrapper: Wrapper, config: Config, ignore: Collection[str]) -> Model:
    text = config.get("text_config")
    kind = text.get("model_type", wrapper.texts[0].name) if isinstance(text, dict) else None
    family = next((family for family in wrapper.texts if family.name == kind), None)
    if not isinstance(text, dict) or family is None:
        known = " or ".join(family.name for family in wrapper.texts)
        raise unsupported("text_config", f"config.json has text_config = {text!r:.80}; one of {known} is needed")
    check_fields(text, family.fields, ignore)
    model = family.read(text)
    shapes = model.architecture.model_copy(update={"family": wrapper.name})
    return replace(model, architecture=shapes, names=model.names.under(wrapper.prefix))


def _family(config: Config) -> Family | Wrapper:
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
