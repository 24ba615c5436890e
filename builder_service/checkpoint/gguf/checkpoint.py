"""A GGUF file, or several that belong together, as a `Checkpoint`: all that a build reads is in it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from builder_service.checkpoint.checkpoint import DEFAULT_TEMPLATE
from builder_service.checkpoint.files import invalid
from builder_service.checkpoint.gguf.config import ROPE_TENSORS, kind_of, read_config
from builder_service.checkpoint.gguf.split import read_headers
from builder_service.checkpoint.gguf.tensors import GgufTensors
from builder_service.checkpoint.gguf.tokenizer import end_token_ids, read_tokenizer
from builder_service.checkpoint.tokenizer import TokenizerDescription

_TEMPLATE = "tokenizer.chat_template"
_SAMPLING = {
    "temp": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "penalty_repeat": "repetition_penalty",
}
"""Keys under `general.sampling`, by the names of generation_config.json."""


class GgufCheckpoint:
    """A `Checkpoint` in GGUF. Opening reads the headers, and raises what `read_headers` and `kind_of` do."""

    def __init__(self, path: Path) -> None:
        self._files, self._header = read_headers(path)
        self._name = path.name
        kind_of(self._header.metadata, self._name)

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The file's own, by key."""
        return self._header.metadata

    @cached_property
    def config(self) -> dict[str, Any]:
        return read_config(self.metadata, self._header.tensors.keys(), self._factors, self._name)

    @cached_property
    def generation_config(self) -> dict[str, Any]:
        given = {key.removeprefix("general.sampling."): value for key, value in self.metadata.items()}
        sampling = {name: given[key] for key, name in _SAMPLING.items() if key in given}
        ends = {"eos_token_id": tokens} if (tokens := end_token_ids(self.metadata)) else {}
        return sampling | ({"do_sample": True} if sampling else {}) | ends

    @cached_property
    def tokenizer(self) -> TokenizerDescription | None:
        return read_tokenizer(self.metadata, self._name)

    @property
    def unread_tokenizer(self) -> str:
        return ""

    @cached_property
    def chat_templates(self) -> Mapping[str, str]:
        """Under the one key the default, under keys that go on with a name the others."""
        found = {
            key.removeprefix(_TEMPLATE).removeprefix(".") or DEFAULT_TEMPLATE: value
            for key, value in self.metadata.items()
            if key == _TEMPLATE or key.startswith(f"{_TEMPLATE}.")
        }
        return {name: value for name, value in found.items() if isinstance(value, str)}

    @cached_property
    def tensors(self) -> GgufTensors:
        config, kind = self.config, kind_of(self.metadata, self._name)
        queries = config["num_attention_heads"]
        keys = config.get("num_key_value_heads", queries)
        if not isinstance(keys, int) or keys < 1:
            raise invalid(
                f"{self._name} has attention.head_count_kv = {keys!r:.80}; one number is needed", file=self._name
            )
        stored = [entry for name, entry in self._header.tensors.items() if name not in ROPE_TENSORS]
        return GgufTensors(stored, kind, (queries, keys))

    @property
    def weight_files(self) -> tuple[Path, ...]:
        return self._files

    @property
    def files(self) -> tuple[Path, ...]:
        return self._files

    def _factors(self, name: str) -> list[float]:
        if name not in self._header.tensors:
            raise invalid(f"tensor {name} is missing from {self._name}", file=self._name, tensor=name)
        entry = self._header.tensors[name]
        return [
            float(value) for value in GgufTensors([entry], kind_of(self.metadata, self._name), (0, 0)).tensor(name).flat
        ]
