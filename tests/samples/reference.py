"""The paper's scheme as it is told, in float64, one token at a time: the judge of every engine.

Keys are cached raw. At every step each layer evicts the oldest token that is not a sink, then rotates all its keys
by their place in the cache, and the query by its own. Nothing here is shared with the product: it reads
`config.json` and `model.safetensors` itself and knows neither rows nor rings nor chunks.

Source: StreamingLLM (arXiv 2309.17453), section 3.2; Llama as in Hugging Face's `modeling_llama.py`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

Array = npt.NDArray[np.float64]


class Weights:
    """A Llama checkpoint in float64."""

    def __init__(self, folder: Path) -> None:
        self.config: dict[str, Any] = json.loads((folder / "config.json").read_text())
        self.tensors = {
            name: tensor.astype(np.float64)
            for path in sorted(folder.glob("*.safetensors"))
            for name, tensor in load_file(path).items()
        }
        self.layers: int = self.config["num_hidden_layers"]
        self.heads: int = self.config["num_attention_heads"]
        self.kv_heads: int = self.config.get("num_key_value_heads") or self.heads
        self.head_dim: int = self.config.get("head_dim") or self.config["hidden_size"] // self.heads
        self.epsilon: float = self.config.get("rms_norm_eps", 1e-6)
        parameters = self.config.get("rope_parameters") or self.config.get("rope_scaling") or {}
        assert (parameters.get("rope_type") or parameters.get("type") or "default") == "default", parameters
        theta = parameters.get("rope_theta") or self.config.get("rope_theta") or 10000.0
        halves = np.arange(0, self.head_dim, 2, dtype=np.float32) / np.float32(self.head_dim)
        wavelengths = np.power(float(theta), halves.astype(np.float64)).astype(np.float32)  # rounded as PyTorch does
        self.frequencies = (np.float32(1) / wavelengths).astype(np.float64)

    def linear(self, name: str, x: Array) -> Array:
        y: Array = self.tensors[f"{name}.weight"] @ x
        return y + self.tensors[f"{name}.bias"] if f"{name}.bias" in self.tensors else y

    def norm(self, name: str, x: Array) -> Array:
        scaled: Array = x / np.sqrt(np.mean(x * x) + self.epsilon) * self.tensors[f"{name}.weight"]
        return scaled

    def head(self, x: Array) -> Array:
        tied = "lm_head.weight" not in self.tensors
        logits: Array = self.tensors["model.embed_tokens.weight" if tied else "lm_head.weight"] @ x
        return logits


class Reference:
    """One session with `sinks` sinks that sees `window` recent tokens, the newest included."""

    def __init__(self, weights: Weights, sinks: int, window: int) -> None:
        self.weights = weights
        self.sinks = sinks
        self.capacity = sinks + window
        self.keys: list[list[Array]] = [[] for _ in range(weights.layers)]  # [layer][token] -> [kv_head, dim], raw
        self.values: list[list[Array]] = [[] for _ in range(weights.layers)]

    def feed(self, token: int) -> Array:
        """Logits after `token`. [vocabulary]"""
        w = self.weights
        x = w.tensors["model.embed_tokens.weight"][token]
        for layer in range(w.layers):
            name = f"model.layers.{layer}"
            x = x + self._attend(layer, w.norm(f"{name}.input_layernorm", x))
            y = w.norm(f"{name}.post_attention_layernorm", x)
            gate = w.linear(f"{name}.mlp.gate_proj", y)
            x = x + w.linear(f"{name}.mlp.down_proj", gate / (1 + np.exp(-gate)) * w.linear(f"{name}.mlp.up_proj", y))
        return w.head(w.norm("model.norm", x))

    def stream(self, tokens: list[int]) -> Array:
        """Logits after each of `tokens`. [token, vocabulary]"""
        return np.stack([self.feed(token) for token in tokens])

    def _attend(self, layer: int, x: Array) -> Array:
        w, name = self.weights, f"model.layers.{layer}.self_attn"
        keys, values = self.keys[layer], self.values[layer]
        if len(keys) == self.capacity:  # evict the oldest token that is not a sink
            del keys[self.sinks], values[self.sinks]
        keys.append(w.linear(f"{name}.k_proj", x).reshape(w.kv_heads, w.head_dim))
        values.append(w.linear(f"{name}.v_proj", x).reshape(w.kv_heads, w.head_dim))
        places = np.arange(len(keys))
        query = rotate(w.linear(f"{name}.q_proj", x).reshape(1, w.heads, w.head_dim), places[-1:], w.frequencies)[0]
        rotated = rotate(np.stack(keys), places, w.frequencies)  # [token, kv_head, dim]
        group = w.heads // w.kv_heads
        out = np.empty((w.heads, w.head_dim))
        for head in range(w.heads):
            scores = rotated[:, head // group] @ query[head] / np.sqrt(w.head_dim)
            weights = np.exp(scores - scores.max())
            out[head] = weights / weights.sum() @ np.stack(values)[:, head // group]
        return w.linear(f"{name}.o_proj", out.reshape(-1))


def rotate(x: Array, places: npt.NDArray[np.int64], frequencies: Array) -> Array:
    """Rotate [token, head, dim] by `places` [token], halves together as Hugging Face's `rotate_half`."""
    angle = (places[:, None] * frequencies)[:, None, :]  # [token, 1, dim / 2]
    first, second = np.split(x, 2, axis=-1)
    return np.concatenate(
        [first * np.cos(angle) - second * np.sin(angle), second * np.cos(angle) + first * np.sin(angle)], axis=-1
    )
