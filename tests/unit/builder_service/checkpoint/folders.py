"""Checkpoint folders, whole and harmed."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from safetensors.numpy import save_file

ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
"""A header's entry of a tensor of two zeros."""


def write_tensors(folder: Path, tensors: dict[str, Any], config: str = "{}") -> Path:
    """A checkpoint of these tensors."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(config)
    save_file(tensors, folder / "model.safetensors")
    return folder


def write_raw(folder: Path, header: object, data: bytes = b"", length: int | None = None) -> Path:
    """A safetensors file with any header at all."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return folder


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
