"""Small packed checkpoints for tests: AWQ, GPTQ and compressed-tensors, each by the words of its own format.

Beside every packed folder lies one with the same weights as float32, to compare with.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from tests.samples.checkpoints import copy_checkpoint
from tests.samples.packed.ways import Way

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # the column that AutoAWQ puts into each part of a word, from the lowest bits


def pack_checkpoint(source: Path, folder: Path, way: Way, plain: Path) -> Path:
    """Write the checkpoint in `source`, of one file, packed into `folder`, and its weights as float32 into `plain`."""
    for target in (folder, plain):
        copy_checkpoint(source, target)
    packed: dict[str, np.ndarray] = {}
    floats: dict[str, np.ndarray] = {}
    for name, values in load_file(source / "model.safetensors").items():
        floats[name] = values
        module = name.removesuffix(".weight")
        if values.ndim == 2 and "layers" in name and module != "model.layers.1.mlp.up_proj":
            parts, floats[name] = pack(values, way, seed=0 if way.alike else len(packed))
            packed |= {f"{module}.{part}": np.ascontiguousarray(stored) for part, stored in parts.items()}
        else:
            packed[name] = values
    save_file(packed, folder / "model.safetensors")
    save_file(floats, plain / "model.safetensors")
    config = json.loads((source / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": way.config}))
    return folder


def pack(weights: np.ndarray, way: Way, seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Tensors of one matrix by the names behind its module's, and what its weights are now."""
    outputs, inputs = weights.shape
    size = way.group if way.group > 0 else inputs
    group = np.arange(inputs) // size
    if way.shuffled:
        group = np.random.default_rng(seed).permutation(group)
    most, middle = (1 << way.bits) - 1, 1 << (way.bits - 1)
    scales, zeros = np.empty((outputs, group.max() + 1), np.float16), np.full((outputs, group.max() + 1), middle)
    for each in range(group.max() + 1):
        part = weights[:, group == each]
        low, high = np.minimum(part.min(axis=1), 0), np.maximum(part.max(axis=1), 0)
        reach = 2 * np.maximum(-low, high) if way.symmetric else high - low
        scales[:, each] = reach / most
        if not way.symmetric:
            zeros[:, each] = np.clip(np.rint(-low / scales[:, each].astype(np.float32)), 1, most)
    scale, zero = scales[:, group].astype(np.float32), zeros[:, group]
    numbers = np.clip(np.rint(weights / scale) + zero, 0, most).astype(np.int64)
    return _stored(way, numbers, scales, zeros, group), (numbers - zero).astype(np.float32) * scale


def _stored(
    way: Way, numbers: np.ndarray, scales: np.ndarray, zeros: np.ndarray, group: np.ndarray
) -> dict[str, np.ndarray]:
    if way.method == "awq":
        return {
            "qweight": words(numbers.T, 4, AWQ_ORDER),
            "qzeros": words(zeros.T, 4, AWQ_ORDER),
            "scales": scales.T,
        }
    if way.method == "gptq":
        return {
            "qweight": words(numbers, way.bits).T,
            "qzeros": words(zeros.T - (way.version == "gptq"), way.bits),
            "scales": scales.T,
            "g_idx": group.astype(np.int32),
        }
    found = {"weight_packed": words(numbers, way.bits), "weight_scale": scales}
    found |= {"weight_shape": np.array(numbers.shape, np.int64)}
    found |= {} if way.symmetric else {"weight_zero_point": words(zeros.T, way.bits).T}
    return found | ({"weight_g_idx": group.astype(np.int32)} if way.shuffled else {})


def words(numbers: np.ndarray, bits: int, order: tuple[int, ...] = ()) -> np.ndarray:
    """[rows, numbers] as [rows, words of 32 bits]; `order` says which of its numbers a word has in its lowest bits."""
    count = 32 // bits
    padded = np.pad(numbers, ((0, 0), (0, -numbers.shape[1] % count))).astype(np.uint32)
    out = np.zeros((len(padded), padded.shape[1] // count), np.uint32)
    for place in range(count):
        out |= padded[:, (order or range(count))[place] :: count] << np.uint32(bits * place)
    return out.view(np.int32)
