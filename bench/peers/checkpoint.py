"""Checkpoints of the shapes, in Hugging Face's layout: made once, kept in a folder."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np

from bench.build_memory import write_tensor
from bench.peers.shapes import Shape
from builder_service.families import read_model
from builder_service.tensors import source_shapes

DEMO = Path(__file__).parents[2] / "demo" / "model"


def checkpoint(shape: Shape, folder: Path) -> Path:
    """The folder of `shape` below `folder`, written if it is not there."""
    if not shape.config:
        return DEMO
    made = folder / shape.name / "checkpoint"
    if not (made / "model.safetensors").exists():
        made.mkdir(parents=True, exist_ok=True)
        (made / "config.json").write_text(json.dumps(shape.config, indent=1))
        _write_weights(shape, made / "model.safetensors")
    return made


def _write_weights(shape: Shape, path: Path) -> None:
    """Random bfloat16 numbers, no two tensors alike; the file appears whole."""
    shapes = source_shapes(read_model(shape.config))
    random = np.random.default_rng(0).standard_normal(1 << 24, dtype=np.float32)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        text = json.dumps(_header(shapes)).encode()
        file.write(struct.pack("<Q", len(text)) + text)
        for number, (name, dimensions) in enumerate(shapes.items()):
            write_tensor(file.write, name, dimensions, np.roll(random, 1_000 * number))
    partial.replace(path)


def _header(shapes: dict[str, tuple[int, ...]]) -> dict[str, object]:
    header: dict[str, object] = {}
    offset = 0
    for name, dimensions in shapes.items():
        size = 2 * int(np.prod(dimensions))
        header[name] = {"dtype": "BF16", "shape": dimensions, "data_offsets": [offset, offset + size]}
        offset += size
    return header
