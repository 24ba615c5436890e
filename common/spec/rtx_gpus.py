"""The GPUs that TensorRT-RTX compiles for, by their architectures, and what each can run.

NVIDIA's support matrix lists them; what runs where was asked of the compiler (1.7.1.116).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from common.spec.capabilities import lacks
from common.spec.target_options import INT4_BLOCK, Int4Block

RTX_GPUS: Mapping[str, str] = {
    "sm75": "Turing: GeForce RTX 20, T4",
    "sm86": "Ampere: GeForce RTX 30, A10",
    "sm89": "Ada: GeForce RTX 40, L4",
    "sm120": "Blackwell: GeForce RTX 50, RTX PRO",
    "sm121": "GB10",
}
"""Architectures, and GPUs that have them."""
DEFAULT: Final = ("sm86", "sm89", "sm120")
"""Run every precision that a GPU target is built in, but fp8."""
_DATACENTER = ("sm80", "sm87", "sm90", "sm100", "sm103", "sm110")
_NOT_COMPILED: Mapping[str, tuple[str, ...]] = {"sm75": ("fp32",)}
"""Precisions that an architecture has, and of which it gets no products."""


class TensorRtRtxOptions(BaseModel):
    """How TensorRT-RTX compiles; for target tensorrt_rtx only."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    compute_capabilities: Annotated[tuple[str, ...], Field(min_length=1, max_length=len(RTX_GPUS))] = DEFAULT
    """Architectures of the GPUs that are to run the engine: any of sm75, sm86, sm89, sm120 and sm121. One engine holds
    kernels for all of them; the next costs next to nothing."""
    int4_block: Int4Block = INT4_BLOCK
    """Of precision int4 only: inputs that share a scale. Fewer are nearer to the checkpoint, more are smaller."""

    @field_validator("compute_capabilities")
    @classmethod
    def _check_known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            _check_name(name)
        return tuple(name for name in RTX_GPUS if name in names)  # in order, each once: equal engines have equal keys


def _check_name(name: str) -> None:
    if name in _DATACENTER:
        message = (
            "{name} is a datacenter or embedded GPU, which target tensorrt compiles for, and TensorRT-RTX does not"
        )
        raise PydanticCustomError("datacenter_gpu", message, {"name": name})
    if name not in RTX_GPUS:
        message = "{name} is none of {known}, which TensorRT-RTX compiles for"
        raise PydanticCustomError("rtx_gpu", message, {"known": ", ".join(RTX_GPUS), "name": name})


def unable(names: tuple[str, ...], precision: str) -> tuple[str, ...]:
    """Those of the architectures that cannot run a precision."""
    return tuple(
        name for name in names if lacks(two_numbers(name), precision) or precision in _NOT_COMPILED.get(name, ())
    )


def unable_gpus(options: TensorRtRtxOptions, precision: str, others: Sequence[str]) -> list[InitErrorDetails]:
    """An error if a GPU that was asked for cannot run the precision; `others` are all that the target has."""
    names = options.compute_capabilities
    if not (wrong := unable(names, precision)):
        return []
    message = "{wrong} cannot run precision {precision}; leave it out, or build it in {able}"
    able = " or ".join(str(each) for each in others if not unable(names, each))
    facts = {"wrong": ", ".join(wrong), "precision": str(precision), "able": able}
    error = PydanticCustomError("precision_of_gpu", message, facts)
    return [InitErrorDetails(type=error, loc=("tensorrt_rtx", "compute_capabilities"), input=list(names))]


def two_numbers(name: str) -> str:
    """The compute capability of an architecture as CUDA writes it: 8.6 for sm86."""
    digits = name.removeprefix("sm")
    return f"{digits[:-1]}.{digits[-1]}"
