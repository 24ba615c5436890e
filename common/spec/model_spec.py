"""The model spec: what to build. One model for YAML, for the wire (see `wire`) and for the manifest."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from math import prod
from typing import Annotated, Any, Final

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from common.spec.capabilities import lacks, least_capability
from common.spec.chat.template_choices import MOST_COMBINATIONS, TemplateValue
from common.spec.one_line import OneLine
from common.spec.rtx_gpus import TensorRtRtxOptions, unable_gpus
from common.spec.target_options import OnnxRuntimeOptions, TensorRtLlmOptions, TensorRtOptions
from common.window import Geometry

GGUF: Final = ".gguf"
"""How the name of a GGUF file ends."""
NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,62}$"


class Target(StrEnum):
    """Who executes an engine."""

    ONNXRUNTIME = "onnxruntime"
    TENSORRT = "tensorrt"
    TENSORRT_RTX = "tensorrt_rtx"
    """On RTX GPUs; compiled without one."""
    TENSORRT_LLM = "tensorrt_llm"
    """Models too large for one GPU."""


class Precision(StrEnum):
    """How weights are held."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"
    INT4 = "int4"
    FP8 = "fp8"
    KEEP = "keep"
    """As a quantized checkpoint has them."""


_ON_GPUS = (Precision.FP32, Precision.FP16, Precision.BF16, Precision.INT8, Precision.INT4, Precision.FP8)
PRECISIONS: Mapping[Target, tuple[Precision, ...]] = {
    Target.ONNXRUNTIME: (Precision.FP32, Precision.INT8, Precision.INT4, Precision.KEEP),
    Target.TENSORRT: _ON_GPUS,
    Target.TENSORRT_RTX: _ON_GPUS,
    Target.TENSORRT_LLM: (Precision.FP16, Precision.BF16),
}
"""What a target can be built in."""
PLAN_TARGETS = (Target.TENSORRT, Target.TENSORRT_RTX)
"""Targets whose engines are plans, compiled from one and the same graph."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Source(_Part):
    """Where a checkpoint is."""

    uri: Annotated[OneLine, Field(min_length=1)]
    """A checkpoint in Hugging Face's layout: a path, a file:// URL, hf://ORG/REPO, hf://ORG/REPO@REVISION, or an
    object-store URL such as s3://BUCKET/PREFIX; or a GGUF file: any of these with /FILE.gguf. In a YAML file, a path is
    relative to that file."""
    revision: OneLine = ""
    """Of hf:// only: a branch, a tag or a commit; empty: the default branch. In a manifest always the commit."""
    adapter: OneLine = ""
    """A LoRA adapter that is merged into the checkpoint's weights: a folder as peft saves it, named like a checkpoint.
    In a manifest one of the hub has its commit behind `@`. Empty: none."""

    @model_serializer(mode="wrap")
    def _as_before_adapters(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without an adapter as releases know it that have none."""
        data: dict[str, Any] = write(self)
        return data if self.adapter else {name: value for name, value in data.items() if name != "adapter"}


class CacheGeometry(_Part):
    """Size of the sink + window cache, in tokens, and the number of slots."""

    sink_tokens: Annotated[int, Field(strict=True, ge=0, le=1_000_000)] = 4
    """Tokens kept from the start of every conversation."""
    window_tokens: Annotated[int, Field(strict=True, ge=1, le=1_000_000)] = 1020
    """Most recent tokens that a query sees, itself included. Sinks and window fit the trained context."""
    chunk_tokens: Annotated[int, Field(strict=True, ge=1, le=4096)] = 64
    """Most tokens that one step feeds to one session; onnxruntime feeds up to 256 to a young one that is alone."""
    max_slots: Annotated[int, Field(strict=True, ge=1, le=1024)] = 8
    """Conversations held in the engine at once."""


class BuildOptions(_Part):
    """Choices that rarely differ from their defaults."""

    ignore_config_fields: tuple[str, ...] = ()
    """Fields of config.json that the builder does not know and that are safe to ignore for this checkpoint."""
    onnxruntime: OnnxRuntimeOptions = OnnxRuntimeOptions()
    """How weights, keys and values are held for ONNX Runtime; for target onnxruntime only."""
    tensorrt: TensorRtOptions = TensorRtOptions()
    """How TensorRT compiles; for target tensorrt only."""
    tensorrt_rtx: TensorRtRtxOptions = TensorRtRtxOptions()
    """How TensorRT-RTX compiles; for target tensorrt_rtx only."""
    tensorrt_llm: TensorRtLlmOptions = TensorRtLlmOptions()
    """How TensorRT-LLM spreads a model over GPUs and holds it; for target tensorrt_llm only."""


class TargetHardware(_Part):
    """The GPU to compile for; for target tensorrt only."""

    compute_capability: Annotated[str, Field(pattern=r"^([0-9]+\.[0-9]+)?$")] = ""
    """Compute capability, such as `9.0`: only builders with such a GPU take the build. Empty: any with a GPU does."""


class ModelSpec(_Part):
    """What to build."""

    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    """Name of the engine: lower-case letters, digits, '.', '_' and '-', at most 63, a letter or digit first."""
    source: Source
    """Where the checkpoint is."""
    target: Target = Target.ONNXRUNTIME
    """Who executes the engine."""
    precision: Annotated[Precision, Field(validate_default=True)] = Precision.FP32
    """How weights are held. Of a quantized checkpoint, GGUF or not, and target onnxruntime the default is keep."""
    cache: CacheGeometry = CacheGeometry()
    """How many tokens a slot keeps, and how many slots there are."""
    chat_template: str = ""
    """Empty: the checkpoint's own chat template; the name of another of its own; `none`: text is fed as it is; else a
    Jinja template."""
    template_variables: Annotated[dict[OneLine, TemplateValue], Field(max_length=64)] = {}
    """What the chat template gets by name, such as `enable_thinking: false`; or a list of choices, such as
    `[true, false]`, of which a session takes one, the first if it names none."""
    options: Annotated[BuildOptions, Field(validate_default=True)] = BuildOptions()
    """Choices that rarely differ from their defaults."""
    hardware: TargetHardware = TargetHardware()
    """The GPU to compile for; for target tensorrt only."""

    @property
    def geometry(self) -> Geometry:
        """The cache, as planner and engine take it."""
        cache = self.cache
        return Geometry(cache.sink_tokens, cache.window_tokens, cache.chunk_tokens, cache.max_slots)

    @property
    def int4_block(self) -> int:
        """Inputs that share a scale, of precision int4."""
        match self.target:
            case Target.TENSORRT:
                return self.options.tensorrt.int4_block
            case Target.TENSORRT_RTX:
                return self.options.tensorrt_rtx.int4_block
            case Target.ONNXRUNTIME | Target.TENSORRT_LLM:
                return self.options.onnxruntime.int4_block

    @property
    def says_precision(self) -> bool:
        """Whether the precision was asked for; else the checkpoint decides where that was left to it."""
        return "precision" in self.model_fields_set

    @model_serializer(mode="wrap")
    def _as_it_was_said(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without a precision that nobody asked for, so that whoever reads the spec knows."""
        data: dict[str, Any] = write(self)
        return data if self.says_precision else {name: value for name, value in data.items() if name != "precision"}

    @model_validator(mode="before")
    @classmethod
    def _keep_quantized(cls, data: Any) -> Any:  # noqa: ANN401 - whatever is to be validated
        """A GGUF file's own weights, if nothing else is asked for."""
        if not isinstance(data, dict) or "precision" in data or data.get("target", "onnxruntime") != "onnxruntime":
            return data
        source = data.get("source")
        said = source if isinstance(source, dict) else vars(source) if isinstance(source, Source) else {}
        if said.get("adapter"):
            return data
        uri = said.get("uri")
        return data | {"precision": Precision.KEEP} if str(uri).lower().endswith(GGUF) else data

    @field_validator("target")
    @classmethod
    def _check_adapter(cls, target: Target, info: ValidationInfo) -> Target:
        """TensorRT-LLM reads the checkpoint itself."""
        source = info.data.get("source")
        if target is Target.TENSORRT_LLM and source is not None and source.adapter:
            message = "target tensorrt_llm reads the checkpoint as it is; merge source.adapter into one with peft first"
            raise PydanticCustomError("adapter_of_target", message)
        return target

    @field_validator("template_variables")
    @classmethod
    def _check_combinations(cls, variables: dict[str, Any]) -> dict[str, Any]:
        found = prod(len(value) for value in variables.values() if isinstance(value, tuple))
        if found > MOST_COMBINATIONS:
            message = "choices make {found} combinations; at most {most} are proven"
            raise PydanticCustomError("template_combinations", message, {"found": found, "most": MOST_COMBINATIONS})
        return variables

    @field_validator("cache")
    @classmethod
    def _check_window(cls, cache: CacheGeometry, info: ValidationInfo) -> CacheGeometry:
        """A window of one token cannot slide."""
        if info.data.get("target") is Target.TENSORRT_LLM and cache.window_tokens == 1:
            message = "target tensorrt_llm needs a window of at least 2 tokens"
            raise PydanticCustomError("window_of_target", message)
        return cache

    @field_validator("precision")
    @classmethod
    def _check_precision(cls, precision: Precision, info: ValidationInfo) -> Precision:
        """Validated after `target`; if the target is wrong itself, the precision is not compared."""
        target = info.data.get("target")
        if target is not None and precision not in PRECISIONS[target]:
            known = ", ".join(PRECISIONS[target])
            message = "target {target} is built in one of {known}"
            raise PydanticCustomError("precision_of_target", message, {"target": target.value, "known": known})
        source = info.data.get("source")
        if precision is Precision.KEEP and source is not None and source.adapter:
            message = (
                "an adapter changes weights, which cannot be kept as they are stored then; int8, int4 and fp32 can"
            )
            raise PydanticCustomError("precision_of_adapter", message)
        return precision

    @field_validator("hardware")
    @classmethod
    def _check_hardware(cls, hardware: TargetHardware, info: ValidationInfo) -> TargetHardware:
        target = info.data.get("target")
        if target not in (None, Target.TENSORRT) and hardware.compute_capability:
            message = "only target tensorrt is compiled for a GPU, and the target is {target}"
            raise PydanticCustomError("hardware_of_target", message, {"target": target})
        capability, precision = hardware.compute_capability, info.data.get("precision")
        if capability and precision is not None and lacks(capability, precision):
            message = "a GPU of {capability} cannot run precision {precision}, which needs {least} or newer"
            facts = {"capability": capability, "precision": str(precision), "least": least_capability(precision)}
            raise PydanticCustomError("precision_of_gpu", message, facts)
        return hardware

    @field_validator("options")
    @classmethod
    def _check_options(cls, options: BuildOptions, info: ValidationInfo) -> BuildOptions:
        """Refuse options of other targets and precisions: they would have no effect, and nobody would notice."""
        target, precision = info.data.get("target"), info.data.get("precision")
        refused = _foreign_options(options, target) if target is not None else []
        if target is not None and precision is not None:
            refused += _unused_block(options, target, precision)
        if target is Target.TENSORRT_RTX and precision is not None:
            refused += unable_gpus(options.tensorrt_rtx, precision, PRECISIONS[target])
        if refused:
            raise ValidationError.from_exception_data("options", refused)
        return options


def _foreign_options(options: BuildOptions, target: Target) -> list[InitErrorDetails]:
    """An error, with its path and value, for each option that was set and is not the target's."""
    message = "only target {owner} takes it, and the target is {target}"
    return [
        InitErrorDetails(
            type=PydanticCustomError("option_of_target", message, {"owner": owner.value, "target": target.value}),
            loc=(owner.value, name),
            input=value,
        )
        for owner in Target
        if owner is not target
        for name, value in getattr(options, owner).model_dump(mode="json", exclude_defaults=True).items()
    ]


def _unused_block(options: BuildOptions, target: Target, precision: Precision) -> list[InitErrorDetails]:
    """An error if a block was chosen for a precision that has no blocks."""
    changed = getattr(options, target).model_dump(mode="json", exclude_defaults=True)
    if precision is Precision.INT4 or "int4_block" not in changed:
        return []
    message = "only precision int4 takes it, and the precision is {precision}"
    error = PydanticCustomError("option_of_precision", message, {"precision": precision.value})
    return [InitErrorDetails(type=error, loc=(target.value, "int4_block"), input=changed["int4_block"])]
