"""What GPUs can run, by compute capability."""

from __future__ import annotations

from collections.abc import Mapping

_FROM: Mapping[str, str] = {"bf16": "8.0", "int8": "8.0", "int4": "8.0", "fp8": "8.9"}
"""The first compute capability that runs a precision. Products of int8 and int4 are bfloat16."""


def least_capability(precision: str) -> str:
    """The first compute capability that runs a precision, such as 8.9; empty: there was none without."""
    return _FROM.get(precision, "")


def lacks(capability: str, precision: str) -> bool:
    """Whether GPUs of this compute capability, such as 8.6, cannot run a precision."""
    least = least_capability(precision)
    return bool(least) and _numbers(capability) < _numbers(least)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
