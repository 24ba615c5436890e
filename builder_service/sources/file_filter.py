"""Selects the files of a remote checkpoint to fetch: those that a build reads, and none of other formats."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from builder_service.checkpoint.files import FIELD
from builder_service.checkpoint.folder import (
    ADAPTERS,
    CONFIG,
    GENERATION_CONFIG,
    INDEX,
    QUANTIZATION_CONFIG,
    SINGLE,
    TEXT_FILES,
    no_base,
    no_weights,
    read_weight_map,
    shard_names,
    shards_without_index,
)
from builder_service.checkpoint.gguf.names import is_gguf, part_names
from common.errors import NotFound, Reason, ResourceExhausted

SMALL = (CONFIG, GENERATION_CONFIG, QUANTIZATION_CONFIG, INDEX, *TEXT_FILES)
"""All files beside the weights; a checkpoint has some of them."""


def small_files(names: Collection[str], where: str) -> tuple[str, ...]:
    """Those of `names` that are not weights. Raises NotFound (SOURCE_NOT_FOUND) if config.json is missing, and
    InvalidArgument (INVALID_SPEC) if an adapter is there instead.
    """
    if CONFIG not in names:
        if adapter := next((name for name in ADAPTERS if name in names), ""):
            raise no_base(where, adapter)
        gguf = [name for name in names if is_gguf(name)]
        needed = "a checkpoint in Hugging Face's layout is needed, or the name of a GGUF file"
        message = f"{FIELD}: {where} has no {CONFIG}; {needed}{f', such as {min(gguf)}' if gguf else ''}"
        raise NotFound(Reason.SOURCE_NOT_FOUND, message, field=FIELD, file=CONFIG)
    return tuple(name for name in SMALL if name in names)


def gguf_files(names: Collection[str], file: str, where: str) -> tuple[str, ...]:
    """A GGUF file and the parts that belong to it. Raises NotFound (SOURCE_NOT_FOUND) for one that is not there, and
    what `part_names` does.
    """
    parts = part_names(file)
    if missing := [name for name in parts if name not in names]:
        message = f"{FIELD}: there is no {missing[0]} at {where}"
        raise NotFound(Reason.SOURCE_NOT_FOUND, message, field=FIELD, file=missing[0])
    return parts


def weight_files(names: Collection[str], folder: Path, where: str, get_there: str) -> tuple[str, ...]:
    """Those of `names` with the weights; `folder` holds the small files.

    Raises NotFound (SOURCE_NOT_FOUND) for what is missing, and InvalidArgument (CHECKPOINT_INVALID) for a checkpoint
    in another format, with the command that converts it, which begins with `get_there`.
    """
    if SINGLE in names:
        return (SINGLE,)
    shards = shard_names(read_weight_map(folder)) if INDEX in names else shards_without_index(names)
    if not shards:
        raise no_weights(where, names, get_there)
    if missing := [shard for shard in shards if shard not in names]:
        message = f"{missing[0]} is one of the checkpoint's files of weights, and {where} does not have it"
        raise NotFound(Reason.SOURCE_NOT_FOUND, message, field=FIELD, file=missing[0])
    return shards


def check_room(needed_bytes: int, free_bytes: int, where: str, folder: Path) -> None:
    """Raise ResourceExhausted (OUT_OF_DISK) if what is to be fetched does not fit."""
    if needed_bytes > free_bytes:
        sizes = f"{needed_bytes / 2**20:,.0f} MiB, and {free_bytes / 2**20:,.0f} MiB are free in {folder}"
        raise ResourceExhausted(Reason.OUT_OF_DISK, f"{where} takes {sizes}", folder=folder)
