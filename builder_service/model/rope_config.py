"""What a checkpoint says about rotation, and the context that it was made for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from common.errors import InvalidArgument, Reason

LARGEST = 1e30  # of any number here: products of a few are still finite


@dataclass(frozen=True)
class RopeConfig:
    """What config.json says about rotation."""

    kind: str
    theta: float
    head_dim: int
    max_position: int  # max_position_embeddings
    fields: Mapping[str, Any]

    @property
    def factor(self) -> float:
        """How much the context is stretched; at least 1."""
        return self.number("factor", self.max_position / self.original_max_position)

    @property
    def original_max_position(self) -> int:
        """Context before it was stretched, where the type knows one."""
        return int(self.number("original_max_position_embeddings", self.max_position))

    @property
    def trained_context(self) -> int:
        """Tokens that the checkpoint is made for; `linear` and `dynamic` stretch max_position_embeddings itself."""
        if self.kind in ("linear", "dynamic"):
            return int(self.max_position * self.factor)
        if self.kind == "yarn":
            return int(self.original_max_position * self.factor)
        return self.max_position

    def number(self, name: str, default: float | None = None) -> float:
        """A field that is a number above 0, at most LARGEST; raises InvalidArgument for what is not."""
        value = self.fields.get(name)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= LARGEST:
            message = (
                f"{name} of rope type {self.kind} is {value!r:.80}; a number above 0, at most {LARGEST}, is needed"
            )
            raise unsupported(name, message)
        return float(value)


def unsupported(name: str, message: str) -> InvalidArgument:
    field = ".".join(part for part in ("source.config.json.rope_parameters", name) if part)
    return InvalidArgument(Reason.CONFIG_UNSUPPORTED, message, field=field)
