"""Opens a checkpoint of either kind; the path says which."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from builder_service.checkpoint.checkpoint import BlockTensors, Checkpoint
from builder_service.checkpoint.folder import FolderCheckpoint, open_checkpoint
from builder_service.checkpoint.gguf.names import is_gguf


def open_path(path: Path, check: Callable[[Sequence[Path]], None] = lambda _: None) -> Checkpoint:
    """The checkpoint in a folder, or in a GGUF file; its headers are checked, and before that its files, by `check`.

    Raises what `open_checkpoint` does, and InvalidArgument (ARCHITECTURE_UNSUPPORTED) for a GGUF of a kind that is
    not read.
    """
    if not is_gguf(path.name):
        return open_checkpoint(path, check)
    from builder_service.checkpoint.gguf.checkpoint import GgufCheckpoint  # noqa: PLC0415 - half a second, rarely needed

    checkpoint = GgufCheckpoint(path)
    check(checkpoint.files)
    _ = checkpoint.config, checkpoint.tensors
    return checkpoint


def is_quantized(checkpoint: Checkpoint) -> bool:
    """Whether a matrix could be held as it is stored, in blocks. Raises InvalidArgument (CHECKPOINT_INVALID) where
    one is quantized in a way that cannot be held.
    """
    if isinstance(checkpoint, FolderCheckpoint):  # whose weights may be elsewhere
        return checkpoint.packing is not None
    found = checkpoint.tensors
    return isinstance(found, BlockTensors) and any(map(found.block_format, found.names))
