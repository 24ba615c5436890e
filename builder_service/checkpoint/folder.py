"""A checkpoint in a folder as Hugging Face lays it out: config.json, safetensors, and the tokenizer's files.

Only safetensors is read: the older formats run code.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from builder_service.checkpoint.checkpoint import DEFAULT_TEMPLATE
from builder_service.checkpoint.files import FIELD, invalid, present, read_bytes, read_json, read_text
from builder_service.checkpoint.packed.packing import Packing, read_packing
from builder_service.checkpoint.packed.tensors import PackedTensors
from builder_service.checkpoint.safetensors import SafetensorsFiles
from builder_service.checkpoint.sentencepiece_model import convert_sentencepiece
from builder_service.checkpoint.tekken import convert_tekken
from builder_service.checkpoint.tokenizer import (
    TOKENIZER_CONFIG,
    TokenizerDescription,
    convert_tokenizer,
    describe_tokenizer,
)
from common.errors import InvalidArgument, NotFound, Reason, SinkServeError
from common.spec.manifest import TOKENIZER_PATH

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
QUANTIZATION_CONFIG = "hf_quant_config.json"  # of weights that NVIDIA's ModelOpt has quantized
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
SPECIAL_TOKENS = "special_tokens_map.json"
SENTENCEPIECE = ("tokenizer.model", *(f"tokenizer.model.v{version}" for version in (15, 13, 11, 7, 3, 2, 1)))
"""Files of a sentencepiece model, of which the first is read; Mistral's have a version."""
TEKKEN = "tekken.json"
CONVERTIBLE = ("vocab.json", "merges.txt", "added_tokens.json")
"""Files of a tokenizer that transformers converts."""
TEMPLATE, TEMPLATE_JSON = "chat_template.jinja", "chat_template.json"
TEXT_FILES = (
    TOKENIZER_PATH,
    TOKENIZER_CONFIG,
    SPECIAL_TOKENS,
    *SENTENCEPIECE,
    TEKKEN,
    *CONVERTIBLE,
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
_SHARD = re.compile(r"model-\d{5}-of-(\d{5})\.safetensors")
MOST_SHARDS = 10_000
ADAPTERS = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
"""Files of a LoRA adapter."""


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
        """Without tokenizer.json, what there is is converted."""
        found = self._tokenizer_json()
        if found is None:
            return None
        source, config = found
        return describe_tokenizer(source, config | self._tokenizer_config, self._read_json(SPECIAL_TOKENS))

    @property
    def unread_tokenizer(self) -> str:
        """Looks for the formats of tiktoken."""
        return next((path.name for path in sorted(self.folder.glob("*tiktoken*"))), "")

    @cached_property
    def chat_templates(self) -> dict[str, str]:
        """A template without a name is the default; its own file goes before tokenizer_config.json."""
        listed = self._tokenizer_config.get("chat_template") or self._read_json(TEMPLATE_JSON).get("chat_template")
        if isinstance(listed, list):
            listed = {str(entry.get("name")): entry.get("template") for entry in listed if isinstance(entry, dict)}
        if not isinstance(listed, dict):
            listed = {DEFAULT_TEMPLATE: listed}
        found = {name: template for name, template in listed.items() if isinstance(template, str) and template}
        own_file = self.folder / TEMPLATE
        return found | ({DEFAULT_TEMPLATE: read_text(own_file)} if present(own_file) else {})

    @cached_property
    def packing(self) -> Packing | None:
        """How weights are packed; None if they are not, or in a way that is not read."""
        try:
            return read_packing(self.config)
        except InvalidArgument:  # by whoever reads config.json it is told
            return None

    @cached_property
    def tensors(self) -> SafetensorsFiles | PackedTensors:
        """Raises InvalidArgument (CHECKPOINT_INVALID) too if the index names a tensor that no file has."""
        files = SafetensorsFiles(self.weight_files, self._weight_map)
        return PackedTensors(files, self.packing) if self.packing else files

    @cached_property
    def weight_files(self) -> tuple[Path, ...]:
        """One safetensors file, or shards; where there are both, the one file, as in transformers."""
        folder = self.folder
        if present(folder / SINGLE):
            return (folder / SINGLE,)
        if present(folder / INDEX):
            return tuple(self._shard(name) for name in shard_names(self._weight_map))
        names = [path.name for path in folder.iterdir()]
        if shards := shards_without_index(names):
            return tuple(self._shard(name) for name in shards)
        raise no_weights(str(folder), names, f"cd {shlex.quote(str(folder))}")

    @property
    def files(self) -> tuple[Path, ...]:
        others = [path for name in (GENERATION_CONFIG, QUANTIZATION_CONFIG) if present(path := self.folder / name)]
        index = [self.folder / INDEX] if self._weight_map else []
        return (self.folder / CONFIG, *others, *index, *self.weight_files, *text_files(self.folder))

    @cached_property
    def _weight_map(self) -> dict[str, str]:
        """The file of each tensor by the index; empty if there is none, or one file has all tensors."""
        indexed = present(self.folder / INDEX) and not present(self.folder / SINGLE)
        return read_weight_map(self.folder) if indexed else {}

    @cached_property
    def _tokenizer_config(self) -> dict[str, Any]:
        return self._read_json(TOKENIZER_CONFIG)

    def _tokenizer_json(self) -> tuple[bytes, dict[str, Any]] | None:
        """Bytes of a tokenizer.json, and what a tokenizer_config.json says at least; None if there is no tokenizer."""
        if present(path := self.folder / TOKENIZER_PATH):
            return read_bytes(path), {}
        for name in SENTENCEPIECE:
            if present(path := self.folder / name):
                return convert_sentencepiece(path)
        if present(path := self.folder / TEKKEN):
            return convert_tekken(path)
        if not sum(present(self.folder / name) for name in CONVERTIBLE):  # all: transformers would wait for a pipe
            return None
        return convert_tokenizer(self.folder), {}

    def _read_json(self, name: str) -> dict[str, Any]:
        """Empty if there is no such file."""
        return read_json(path) if present(path := self.folder / name) else {}

    def _shard(self, name: str) -> Path:
        if not present(path := self.folder / name):
            message = f"{name} is one of the checkpoint's files of weights, and not in {self.folder}"
            raise NotFound(Reason.SOURCE_NOT_FOUND, message, field=FIELD, file=name)
        return path


def open_checkpoint(folder: Path, check: Callable[[Sequence[Path]], None] = lambda _: None) -> FolderCheckpoint:
    """The checkpoint in a folder, with its configs and the headers of its weights checked.

    `check` is given the files, before more than the names of the weights is read, and may raise.

    Raises NotFound (SOURCE_NOT_FOUND) for a folder or a file that is not there, and InvalidArgument
    (CHECKPOINT_INVALID) for one that is not what it should be.
    """
    if not os.path.isdir(folder):  # noqa: PTH112 - Path's raises for names that cannot be
        raise NotFound(Reason.SOURCE_NOT_FOUND, f"no checkpoint folder at {folder}", field=FIELD, folder=folder)
    if not present(folder / CONFIG) and (adapter := next((name for name in ADAPTERS if present(folder / name)), "")):
        raise no_base(str(folder), adapter)
    checkpoint = FolderCheckpoint(folder)
    check(checkpoint.files)
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


def shards_without_index(names: Iterable[str]) -> tuple[str, ...]:
    """Names of all shards of the checkpoint that has files of these `names`, as `model-00001-of-00003.safetensors`;
    none if it has none.
    """
    counts = {int(found[1]) for name in names if (found := _SHARD.fullmatch(name))}
    if len(counts) != 1:  # several checkpoints in one folder: nobody knows which is meant
        return ()
    (count,) = counts
    return tuple(f"model-{number:05}-of-{count:05}.safetensors" for number in range(1, min(count, MOST_SHARDS) + 1))


def no_weights(where: str, names: Iterable[str], get_there: str) -> SinkServeError:
    """The error for a checkpoint without safetensors that has files of these `names`.

    `get_there` is the command that leads into a folder with them; the message goes on with what converts them.
    """
    names = sorted(names)
    if adapter := next((name for name in ADAPTERS if name in names), ""):
        return no_base(where, adapter)
    if pickled := [name for name in names if name.endswith(".bin")]:
        message = f"{where} holds {', '.join(pickled)}; only safetensors is read, since older formats run code"
        return invalid(
            f"{message}; this converts them, with torch and safetensors: {get_there} && {_CONVERT}", file=pickled[0]
        )
    return NotFound(Reason.SOURCE_NOT_FOUND, f"{where} has neither {SINGLE} nor {INDEX}", field=FIELD, file=SINGLE)


def no_base(where: str, adapter: str) -> SinkServeError:
    """The error for a place that holds the file `adapter` of a LoRA adapter instead of a model."""
    message = f"{where} holds a LoRA adapter ({adapter}) and no model; name its model as source.uri, and this as "
    message += f"source.adapter: sinkserve run MODEL --adapter {shlex.quote(where)}"
    return InvalidArgument(Reason.INVALID_SPEC, message, field=FIELD, file=adapter)
