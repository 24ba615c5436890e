"""A checkpoint in a folder as Hugging Face lays it out: config.json, safetensors, and the tokenizer's files.

Only safetensors is read: the older formats run code.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from builder_service.checkpoint.files import FIELD, invalid, present, read_bytes, read_json, read_text
from builder_service.checkpoint.safetensors import SafetensorsFiles
from builder_service.checkpoint.tokenizer import (
    TOKENIZER_CONFIG,
    TokenizerDescription,
    convert_tokenizer,
    describe_tokenizer,
)
from common.errors import NotFound, Reason, SinkServeError
from common.spec.manifest import TOKENIZER_PATH

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
QUANTIZATION_CONFIG = "hf_quant_config.json"  # of weights that NVIDIA's ModelOpt has quantized
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
SPECIAL_TOKENS = "special_tokens_map.json"
CONVERTIBLE = ("tokenizer.model", "vocab.json", "merges.txt", "added_tokens.json")
"""Files of a tokenizer that has no tokenizer.json."""
TEMPLATE, TEMPLATE_JSON = "chat_template.jinja", "chat_template.json"
TEXT_FILES = (
    TOKENIZER_PATH,
    TOKENIZER_CONFIG,
    SPECIAL_TOKENS,
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    TEMPLATE,
    TEMPLATE_JSON,
)
"""Files that say how text becomes tokens."""
_CONVERT = (
    'python -c "import glob, torch, safetensors.torch; weights = {}; '
    "[weights.update(torch.load(file, map_location='cpu', weights_only=True)) "
    "for file in sorted(glob.glob('pytorch_model*.bin'))]; "
    "safetensors.torch.save_file({name: tensor.contiguous().clone() for name, tensor in weights.items()}, "
    f"'{SINGLE}', {{'format': 'pt'}})\""
)
"""Tensors that share memory are stored once for each name; neither is code run nor transformers needed."""


class FolderCheckpoint:
    """A `Checkpoint` in a folder. Nothing is read before it is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def config(self) -> dict[str, Any]:
        return read_json(self.folder / CONFIG)

    @cached_property
    def generation_config(self) -> dict[str, Any]:
        return self._read_json(GENERATION_CONFIG)

    @cached_property
    def tokenizer(self) -> TokenizerDescription | None:
        """Without tokenizer.json, transformers converts what there is."""
        config = self._tokenizer_config
        source = self._tokenizer_json()
        return describe_tokenizer(source, config, self._read_json(SPECIAL_TOKENS)) if source is not None else None

    @cached_property
    def chat_template(self) -> str | None:
        """Its own file goes before tokenizer_config.json; of several named templates the one called default is used."""
        if present(self.folder / TEMPLATE):
            return read_text(self.folder / TEMPLATE)
        found = self._tokenizer_config.get("chat_template") or self._read_json(TEMPLATE_JSON).get("chat_template")
        if isinstance(found, list):
            found = {str(entry.get("name")): entry.get("template") for entry in found if isinstance(entry, dict)}
        if isinstance(found, dict):
            found = found.get("default")
        return found if isinstance(found, str) else None

    @cached_property
    def tensors(self) -> SafetensorsFiles:
        """Raises InvalidArgument (CHECKPOINT_INVALID) too if the index names a tensor that no file has."""
        found = SafetensorsFiles(self.weight_files)
        known = set(found.names)
        for name, file in self._weight_map.items():
            if name not in known:
                raise invalid(f"{INDEX} says that tensor {name} is in {file}, and it is not", file=file, tensor=name)
        return found

    @cached_property
    def weight_files(self) -> tuple[Path, ...]:
        """One safetensors file, or the shards of an index."""
        folder = self.folder
        if present(folder / INDEX):
            return tuple(self._shard(name) for name in shard_names(self._weight_map))
        if present(folder / SINGLE):
            return (folder / SINGLE,)
        pickled = (path.name for path in folder.glob("*.bin"))
        raise no_weights(str(folder), pickled, f"cd {shlex.quote(str(folder))}")

    @property
    def files(self) -> tuple[Path, ...]:
        names = (GENERATION_CONFIG, QUANTIZATION_CONFIG, INDEX)
        others = [path for name in names if present(path := self.folder / name)]
        return (self.folder / CONFIG, *others, *self.weight_files, *text_files(self.folder))

    @cached_property
    def _weight_map(self) -> dict[str, str]:
        """The file of each tensor by the index; empty if there is none."""
        return read_weight_map(self.folder) if present(self.folder / INDEX) else {}

    @cached_property
    def _tokenizer_config(self) -> dict[str, Any]:
        return self._read_json(TOKENIZER_CONFIG)

    def _tokenizer_json(self) -> bytes | None:
        if present(path := self.folder / TOKENIZER_PATH):
            return read_bytes(path)
        if not sum(present(self.folder / name) for name in CONVERTIBLE):  # all: transformers would wait for a pipe
            return None
        return convert_tokenizer(self.folder)

    def _read_json(self, name: str) -> dict[str, Any]:
        """Empty if there is no such file."""
        return read_json(path) if present(path := self.folder / name) else {}

    def _shard(self, name: str) -> Path:
        if not present(path := self.folder / name):
            message = f"{INDEX} names {name}, which is not in {self.folder}"
            raise NotFound(Reason.SOURCE_NOT_FOUND, message, field=FIELD, file=name)
        return path


def open_checkpoint(folder: Path) -> FolderCheckpoint:
    """The checkpoint in a folder, with its configs and the headers of its weights checked.

    Raises NotFound (SOURCE_NOT_FOUND) for a folder or a file that is not there, and InvalidArgument
    (CHECKPOINT_INVALID) for one that is not what it should be.
    """
    if not os.path.isdir(folder):  # noqa: PTH112 - Path's raises for names that cannot be
        raise NotFound(Reason.SOURCE_NOT_FOUND, f"no checkpoint folder at {folder}", field=FIELD, folder=folder)
    checkpoint = FolderCheckpoint(folder)
    _ = checkpoint.config, checkpoint.generation_config, checkpoint.tensors
    return checkpoint


def text_files(folder: Path) -> Iterator[Path]:
    """The files of a checkpoint that say how text becomes tokens; raises what `present` does."""
    yield from (path for name in TEXT_FILES if present(path := folder / name))


def read_weight_map(folder: Path) -> dict[str, str]:
    """The file of each tensor, by the index. Raises InvalidArgument (CHECKPOINT_INVALID)."""
    mapping = read_json(folder / INDEX).get("weight_map")
    if not isinstance(mapping, dict) or not all(isinstance(name, str) for name in mapping.values()):
        raise invalid(f"{INDEX} has no weight_map from tensors to files", file=INDEX)
    return mapping


def shard_names(weight_map: dict[str, str]) -> tuple[str, ...]:
    """Names of the files that an index names, sorted.

    Raises InvalidArgument (CHECKPOINT_INVALID) for an index that names what is outside its folder.
    """
    names = sorted(set(weight_map.values()))
    for name in names:
        if Path(name).name != name:
            raise invalid(f"{INDEX} names {name!r}, which is not a file of this folder", file=INDEX)
    return tuple(names)


def no_weights(where: str, names: Iterable[str], get_there: str) -> SinkServeError:
    """The error for a checkpoint without safetensors that has files of these `names`.

    `get_there` is the command that leads into a folder with them; the message goes on with what converts them.
    """
    if pickled := sorted(name for name in names if name.endswith(".bin")):
        message = f"{where} holds {', '.join(pickled)}; only safetensors is read, since older formats run code"
        return invalid(
            f"{message}; this converts them, with torch and safetensors: {get_there} && {_CONVERT}", file=pickled[0]
        )
    return NotFound(Reason.SOURCE_NOT_FOUND, f"{where} has neither {SINGLE} nor {INDEX}", field=FIELD, file=SINGLE)
