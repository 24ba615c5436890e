"""What describes a family of checkpoints: its names, the fields of its config.json, and how they are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from builder_service.model.config_fields import Fields
from builder_service.model.config_values import Config
from builder_service.model.model import Model


@dataclass(frozen=True)
class Family:
    """One family; `name` is its `model_type`, the first of `architectures` its usual class."""

    name: str
    architectures: tuple[str, ...]
    fields: Fields
    read: Callable[[Config], Model]


@dataclass(frozen=True)
class Wrapper:
    """A model that holds one of text: its `text_config` is that of one of `texts`, the first if it does not say."""

    name: str
    architectures: tuple[str, ...]
    fields: Fields
    texts: tuple[Family, ...]
    prefix: str
    """What the text model's names of tensors begin with."""
