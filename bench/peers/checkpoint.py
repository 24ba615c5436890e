"""Checkpoints of the shapes, in Hugging Face's layout: made once, kept in a folder."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from bench.peers.shapes import Shape
from builder_service.families.registry import read_model
from builder_service.model.tensors import source_shapes

DEMO = Path(__file__).resolve().parents[2] / "demo" / "model"


def checkpoint(shape: Shape, folder: Path) -> Path:
    """The folder of `shape` below `folder`, written if it is not there."""
    if not shape.config:
        return DEMO
    made = folder / shape.name / "checkpoint"
    if not (made / "model.safetensors").exists():
        made.mkdir(parents=True, exist_ok=True)
        (made / "config.json").write_text(json.dumps(shape.config, indent=1))
        write_weights(shape.config, made / "model.safetensors")
    return made


def write_weights(config: dict[str, Any], path: Path) -> None:
    """Random bfloat16 numbers, no two tensors alike, or ONNX Runtime would keep but one. The file appears whole."""
    shapes = source_shapes(read_model(config))
    random = np.random.default_rng(0).standard_normal(1 << 24, dtype=np.float32)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        text = json.dumps(_header(shapes)).encode()
        file.write(struct.pack("<Q", len(text)) + text)
        for number, (name, dimensions) in enumerate(shapes.items()):
            wanted = np.arange(min(random.size, int(np.prod(dimensions)))) - 1_000 * number
            _write_tensor(file, name, dimensions, random.take(wanted, mode="wrap"))
    partial.replace(path)


def _header(shapes: dict[str, tuple[int, ...]]) -> dict[str, object]:
    header: dict[str, object] = {}
    offset = 0
    for name, dimensions in shapes.items():
        size = 2 * int(np.prod(dimensions))
        header[name] = {"dtype": "BF16", "shape": dimensions, "data_offsets": [offset, offset + size]}
        offset += size
    return header


def _write_tensor(file: BinaryIO, name: str, shape: tuple[int, ...], random: np.ndarray) -> None:
    """Scaled as in a trained model: norms about 1, projections by their inputs."""
    values = 1 + random / 10 if len(shape) == 1 else random * np.float32(1.5 / np.sqrt(shape[1]))
    block = (values if "embed" not in name else random).view(np.uint32) >> 16
    data, left = block.astype("<u2").tobytes(), 2 * int(np.prod(shape))
    while left:
        left -= file.write(data[: min(left, len(data))])
