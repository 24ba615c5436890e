"""StreamingLLM in PyTorch as its authors and SwiftInfer's baseline wrote it, over Hugging Face's modules.

Keys are cached before their rotation; every step joins the new ones to the cache in a new tensor, rotates all of them
by their place in the cache and repeats them for every head; a full cache is cut and joined again. Greedy.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from bench.peers.peer import Job, Peer, TooSlow, Turn, timed, token_ids

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
MOST_BATCH_BYTES = 6 << 30
"""Of keys and values that one step joins and repeats."""


def load(job: Job) -> Peer:
    """The variant is fp32 or bf16."""
    return Streaming(job, load_model(job))


def load_model(job: Job) -> Any:  # noqa: ANN401 - transformers is not installed beside us
    torch.set_num_threads(job.threads)
    torch.set_grad_enabled(False)
    return AutoModelForCausalLM.from_pretrained(job.checkpoint, dtype=DTYPES[job.variant]).eval()


class Streaming:
    """A `Peer`; the sessions of a step are a batch."""

    def __init__(self, job: Job, model: Any) -> None:  # noqa: ANN401 - as above
        self._job = job
        self._model = model
        self._cache: list[Any] = []
        self._conversation: list[Any] = []
        self._next = torch.zeros((1, 1), dtype=torch.int64)
        self._fed = 0

    @property
    def versions(self) -> dict[str, str]:
        return {name: version(name) for name in ("torch", "transformers")}

    def prefill(self, count: int) -> float:
        self._cache = []
        return timed(lambda: self._forward(torch.tensor([token_ids(count)])))

    def fill(self, sessions: int, most_s: float) -> None:  # noqa: ARG002 - one cache is filled, the others get copies
        config = self._model.config
        repeated = 4 * sessions * self._job.cache * config.hidden_size * self._model.dtype.itemsize
        kept = (
            4 * sessions * self._job.cache * config.num_hidden_layers * _kv_width(config) * self._model.dtype.itemsize
        )
        if repeated + kept > MOST_BATCH_BYTES:
            raise TooSlow(f"joining caches of {sessions} sessions takes {(repeated + kept) >> 20} MiB")
        self.prefill(self._job.cache)
        self._cache = [(key.repeat(sessions, 1, 1, 1), value.repeat(sessions, 1, 1, 1)) for key, value in self._cache]
        self._next = torch.full((sessions, 1), 5)

    def step(self) -> float:
        return timed(self._step)

    def turn(self, prompt: int, new: int) -> Turn:
        if not self._fed:
            self._cache = []
        ids = torch.tensor([token_ids(prompt, self._fed)])
        self._fed += prompt + new - 1
        first = timed(lambda: self._answer(ids))
        return Turn(first, first + sum(timed(self._step) for _ in range(new - 1)))

    def _step(self) -> None:
        self._answer(self._next)

    def _answer(self, ids: Any) -> None:  # noqa: ANN401 - a tensor
        """Make room, feed `ids`, choose the next token."""
        self._evict(ids.shape[1])
        self._next = self._forward(ids).argmax(-1, keepdim=True)

    def _evict(self, coming: int) -> None:
        sinks, cache = self._job.sinks, self._job.cache
        if self._cache and self._cache[0][0].shape[2] + coming > cache:
            recent = cache - sinks - coming
            self._cache = [
                tuple(torch.cat([part[:, :, :sinks], part[:, :, -recent:]], dim=2) for part in pair)
                for pair in self._cache
            ]

    def _forward(self, ids: Any) -> Any:  # noqa: ANN401 - tensors
        """Logits after the last token of every session: [batch, vocabulary]."""
        body = self._model.model
        hidden = body.embed_tokens(ids)
        past = self._cache[0][0].shape[2] if self._cache else 0
        length = past + ids.shape[1]
        cos, sin = body.rotary_emb(hidden, torch.arange(length)[None])  # [1, length, head_dim]
        mask = torch.full((ids.shape[1], length), float("-inf"), dtype=hidden.dtype).triu(past + 1)
        joined: list[Any] = []
        for index, layer in enumerate(body.layers):
            pair = self._cache[index] if self._cache else None
            attended, pair = attend(layer.self_attn, layer.input_layernorm(hidden), pair, (cos, sin), mask)
            joined.append(pair)
            hidden = hidden + attended
            hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        self._cache = joined
        return self._model.lm_head(body.norm(hidden[:, -1]))


def attend(attention: Any, hidden: Any, past: Any, angles: Any, mask: Any) -> tuple[Any, Any]:  # noqa: ANN401 - tensors
    """Output of one attention, and its keys (before rotation) and values with the new ones: [batch, head, row, dim]."""
    cos, sin = angles
    query, key, value = (
        project(hidden).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
        for project in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    if past is not None:
        key, value = torch.cat([past[0], key], dim=2), torch.cat([past[1], value], dim=2)
    groups = attention.num_key_value_groups
    rotated = rotate(key, cos, sin).repeat_interleave(groups, dim=1)
    steps = query.shape[2]
    scores = rotate(query, cos[:, -steps:], sin[:, -steps:]) @ rotated.transpose(2, 3) * attention.head_dim**-0.5
    weights = torch.softmax(scores + mask, dim=-1, dtype=torch.float32).to(query.dtype)
    output = weights @ value.repeat_interleave(groups, dim=1)
    return attention.o_proj(output.transpose(1, 2).flatten(2)), (key, value)


def rotate(states: Any, cos: Any, sin: Any) -> Any:  # noqa: ANN401 - tensors
    """RoPE over [batch, head, row, dim]."""
    first, second = states.chunk(2, dim=-1)
    return states * cos[:, None] + torch.cat([-second, first], dim=-1) * sin[:, None]


def _kv_width(config: Any) -> int:  # noqa: ANN401 - transformers' configuration
    return int(config.num_key_value_heads * config.hidden_size // config.num_attention_heads)
