"""A checkpoint with a LoRA adapter: all but its tensors are the model's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from builder_service.checkpoint.adapter.adapter import ADAPTER_WEIGHTS, Adapter
from builder_service.checkpoint.adapter.config import refused
from builder_service.checkpoint.adapter.merged import MergedTensors, plain_name
from builder_service.checkpoint.checkpoint import Checkpoint
from builder_service.checkpoint.tokenizer import TokenizerDescription


class AdaptedCheckpoint:
    """A `Checkpoint`: the model `base`, with `adapter` merged into its tensors."""

    def __init__(self, base: Checkpoint, adapter: Adapter) -> None:
        self.base = base
        self.adapter = adapter

    @property
    def config(self) -> dict[str, Any]:
        return self.base.config

    @property
    def generation_config(self) -> dict[str, Any]:
        return self.base.generation_config

    @property
    def tokenizer(self) -> TokenizerDescription | None:
        return self.base.tokenizer

    @property
    def unread_tokenizer(self) -> str:
        return self.base.unread_tokenizer

    @property
    def chat_templates(self) -> Mapping[str, str]:
        return self.base.chat_templates

    @cached_property
    def tensors(self) -> MergedTensors:
        """Raises what `MergedTensors` does."""
        return MergedTensors(self.base.tensors, self.adapter)

    def check_shared(self, names: Sequence[str]) -> None:
        """Raise InvalidArgument (INVALID_SPEC) if a tensor is changed that is used in several places, under
        `names`: in training the adapter changed it in one of them.
        """
        shared = set(map(plain_name, names))
        found = next((name for name in self.adapter.changes if plain_name(name) in shared), "")
        if not found:
            return
        message = f"the adapter changes {found}, and the model has one matrix for {' and '.join(names)} "
        message += "(tie_word_embeddings); merge with peft, into a model whose two are untied"
        raise refused(message, file=ADAPTER_WEIGHTS, tensor=found)

    @property
    def weight_files(self) -> tuple[Path, ...]:
        return self.base.weight_files

    @property
    def files(self) -> tuple[Path, ...]:
        return (*self.base.files, *self.adapter.files)
