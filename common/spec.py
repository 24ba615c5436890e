"""The model spec: what to build. One model for YAML, for the wire (see `wire`) and for the manifest."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,62}$"


class Target(StrEnum):
    """Who executes an engine."""

    ONNXRUNTIME = "onnxruntime"
    TENSORRT = "tensorrt"


class Precision(StrEnum):
    """How weights are held."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"
    INT4 = "int4"


PRECISIONS: Mapping[Target, tuple[Precision, ...]] = {
    Target.ONNXRUNTIME: (Precision.FP32, Precision.INT8, Precision.INT4),
    Target.TENSORRT: (Precision.FP32, Precision.FP16, Precision.BF16),
}
"""What a target can be built in."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Source(_Part):
    """Where a checkpoint is."""

    uri: Annotated[str, Field(min_length=1)]
    """A folder in Hugging Face's layout: a path or a file:// URL. In a YAML file, relative to that file."""


class CacheGeometry(_Part):
    """Size of the sink + window cache, in tokens, and the number of slots."""

    sink_tokens: Annotated[int, Field(ge=0, le=1_000_000)] = 4
    """Tokens kept from the start of every conversation."""
    window_tokens: Annotated[int, Field(ge=1, le=1_000_000)] = 1020
    """Most recent tokens that a query sees, itself included. Sinks and window fit the trained context."""
    chunk_tokens: Annotated[int, Field(ge=1, le=4096)] = 64
    """Most tokens that one step feeds to one session."""
    max_slots: Annotated[int, Field(ge=1, le=1024)] = 8
    """Conversations held in the engine at once."""


class BuildOptions(_Part):
    """Choices that rarely differ from their defaults."""

    ignore_config_fields: tuple[str, ...] = ()
    """Fields of config.json that the builder does not know and that are safe to ignore for this checkpoint."""


class ModelSpec(_Part):
    """What to build."""

    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    """Name of the engine: lower-case letters, digits, '.', '_' and '-', at most 63, a letter or digit first."""
    source: Source
    """Where the checkpoint is."""
    target: Target = Target.ONNXRUNTIME
    """Who executes the engine."""
    precision: Precision = Precision.FP32
    """How weights are held."""
    cache: CacheGeometry = CacheGeometry()
    """How many tokens a slot keeps, and how many slots there are."""
    chat_template: str = ""
    """Empty: the checkpoint's own chat template; `none`: text is fed as it is; else a Jinja template."""
    options: BuildOptions = BuildOptions()
    """Choices that rarely differ from their defaults."""

    @field_validator("precision")
    @classmethod
    def _check_precision(cls, precision: Precision, info: ValidationInfo) -> Precision:
        """The target comes first among the fields; where it is wrong itself, there is nothing to compare with."""
        target = info.data.get("target")
        if target is not None and precision not in PRECISIONS[target]:
            known = ", ".join(PRECISIONS[target])
            message = "target {target} is built in one of {known}"
            raise PydanticCustomError("precision_of_target", message, {"target": target.value, "known": known})
        return precision
