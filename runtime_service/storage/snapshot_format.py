"""A slot's state as bytes, and back: a line of JSON, the digest of what follows, keys, values.

The line says for which engine it is. What was cut off, changed, or is for another engine is no state.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from common.engine.engine import SlotState
from common.window import Geometry, SessionWindow

_DIGEST_BYTES = hashlib.sha256().digest_size


def to_bytes(engine_digest: str, state: SlotState) -> bytes:
    """All of a state."""
    facts = {
        "engine": engine_digest,
        "position": state.position,
        "window": asdict(state.window),
        "geometry": asdict(state.geometry),
        "shape": state.keys.shape,
        "dtype": state.keys.dtype.str,
    }
    header = json.dumps(facts).encode() + b"\n"
    keys, values = _flat(state.keys), _flat(state.values)
    return b"".join((header, _digest(header, keys, values), keys, values))


def from_bytes(engine_digest: str, data: bytes) -> SlotState:
    """The state; raises ValueError, saying why, for what is none, or none of this engine's."""
    line, newline, _ = data[:4096].partition(b"\n")
    view = memoryview(data)[len(line) + len(newline) :]
    body = view[_DIGEST_BYTES:]
    if not newline or bytes(view[:_DIGEST_BYTES]) != _digest(line + newline, body):
        raise ValueError("its bytes are not what was written")
    header = json.loads(line)
    if header["engine"] != engine_digest:
        raise ValueError(f"it is for engine {header['engine']}, not {engine_digest}")
    keys, values = _arrays(body, header["shape"], np.dtype(header["dtype"]))
    geometry, window = Geometry(**header["geometry"]), SessionWindow(**header["window"])
    return SlotState(header["position"], window, geometry, keys, values)


def _flat(array: npt.NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _arrays(body: memoryview, shape: list[int], dtype: np.dtype[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Read-only views of `body`, both [layer, kv_head, row, dim]."""
    half = len(body) // 2
    keys, values = (np.frombuffer(part, dtype).reshape(shape) for part in (body[:half], body[half:]))
    return keys, values


def _digest(*parts: bytes | memoryview) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.digest()
