"""A small Llama in plain torch: the maths of transformers' `LlamaForCausalLM`, with the mass on the sink laid open.

Parameter names are those of a Hugging Face checkpoint, so `state_dict` is the file's content.
"""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as fn


@dataclass(frozen=True)
class Shape:
    """The model's sizes; head size is `hidden // heads`."""

    vocabulary: int = 1024
    hidden: int = 192
    layers: int = 4
    heads: int = 6
    kv_heads: int = 2
    inner: int = 512
    context: int = 256
    theta: float = 10000.0
    epsilon: float = 1e-5

    @property
    def head(self) -> int:
        """Numbers in one attention head."""
        return self.hidden // self.heads

    def config(self) -> dict[str, object]:
        """The same as a Hugging Face `config.json`."""
        return {
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": self.vocabulary,
            "hidden_size": self.hidden, "intermediate_size": self.inner, "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads, "num_key_value_heads": self.kv_heads, "head_dim": self.head,
            "max_position_embeddings": self.context, "rope_theta": self.theta, "rms_norm_eps": self.epsilon,
            "hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "attention_dropout": 0.0,
            "initializer_range": 0.02, "tie_word_embeddings": True, "use_cache": True, "torch_dtype": "float32",
            "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1,
        }  # fmt: skip


class Attention(nn.Module):
    """Grouped-head attention. Its projections are exposed, so that evaluation can mask and rotate in its own way."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        inner, outer = shape.hidden, shape.heads * shape.head
        self.q_proj = nn.Linear(inner, outer, bias=False)
        self.k_proj = nn.Linear(inner, shape.kv_heads * shape.head, bias=False)
        self.v_proj = nn.Linear(inner, shape.kv_heads * shape.head, bias=False)
        self.o_proj = nn.Linear(outer, inner, bias=False)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Unrotated queries `[batch, kv, group, time, head]`, keys and values `[batch, kv, 1, time, head]`."""
        s, (batch, time, _) = self.shape, x.shape
        weight = torch.cat((self.q_proj.weight, self.k_proj.weight, self.v_proj.weight))
        first, last = s.heads * s.head, s.kv_heads * s.head
        q, k, v = fn.linear(x, weight).tensor_split((first, first + last), -1)
        q = q.view(batch, time, s.kv_heads, -1, s.head).permute(0, 2, 3, 1, 4)
        k = k.view(batch, time, s.kv_heads, 1, s.head).permute(0, 2, 3, 1, 4)
        return q, k, v.view(batch, time, s.kv_heads, 1, s.head).permute(0, 2, 3, 1, 4)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The layer's output and the mean attention that queries after 16 pay to position 0."""
        q, k, v = self.project(x)
        batch, kv, group, time, head = q.shape
        q = rotate(q, cos, sin).reshape(batch, kv, group * time, head) * head**-0.5
        scores = (q @ rotate(k, cos, sin).squeeze(2).transpose(-1, -2)).view(batch, kv, group, time, time)
        weights = (scores + mask).softmax(-1)
        mixed = weights.view(batch, kv, group * time, time) @ v.squeeze(2)
        return self.join(mixed.view(batch, kv, group, time, head)), weights[..., 16:, 0].mean()

    def join(self, mixed: Tensor) -> Tensor:
        """From per-head outputs `[batch, kv, group, time, head]` back to `[batch, time, hidden]`."""
        flat: Tensor = self.o_proj(mixed.permute(0, 3, 1, 2, 4).flatten(2))
        return flat


class Mlp(nn.Module):
    """The gated feed-forward part."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden, shape.inner, bias=False)
        self.up_proj = nn.Linear(shape.hidden, shape.inner, bias=False)
        self.down_proj = nn.Linear(shape.inner, shape.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`down(silu(gate(x)) * up(x))`."""
        out: Tensor = self.down_proj(fn.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Layer(nn.Module):
    """One block: attention and feed-forward, each after a norm and added to the stream."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.self_attn = Attention(shape)
        self.mlp = Mlp(shape)
        self.input_layernorm = nn.RMSNorm(shape.hidden, shape.epsilon)
        self.post_attention_layernorm = nn.RMSNorm(shape.hidden, shape.epsilon)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The stream after this block, and its attention to position 0."""
        mixed, sink = self.self_attn(self.input_layernorm(x), cos, sin, mask)
        return self.finish(x + mixed), sink

    def finish(self, x: Tensor) -> Tensor:
        """The feed-forward half."""
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class Trunk(nn.Module):
    """Embedding, blocks, last norm: the `model.` part of a checkpoint."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocabulary, shape.hidden)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.hidden, shape.epsilon)


class Network(nn.Module):
    """The language model; input and output embeddings are one matrix."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.model = Trunk(shape)
        self.apply(_initialize)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Logits `[batch, time, vocabulary]` and the attention to position 0 of every layer."""
        time = tokens.shape[1]
        cos, sin = angles(torch.arange(time), self.shape)
        mask = torch.full((time, time), -1e9).triu(1)
        x, sinks = self.model.embed_tokens(tokens), []
        for layer in self.blocks():
            x, sink = layer(x, cos, sin, mask)
            sinks.append(sink)
        return self.head(x), torch.stack(sinks)

    def blocks(self) -> list[Layer]:
        """The layers in order."""
        return [layer for layer in self.model.layers if isinstance(layer, Layer)]

    def head(self, x: Tensor) -> Tensor:
        """Logits of a stream of hidden states."""
        return fn.linear(self.model.norm(x), self.model.embed_tokens.weight)


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)


def angles(positions: Tensor, shape: Shape) -> tuple[Tensor, Tensor]:
    """Cosines and sines `[time, head]` in Hugging Face's half-split layout."""
    frequency = 1.0 / (shape.theta ** (torch.arange(0, shape.head, 2).float() / shape.head))
    angle = (positions.double()[:, None] * frequency.double()[None]).float()
    angle = torch.cat((angle, angle), -1)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding of `x [..., time, head]`."""
    low, high = x.chunk(2, -1)
    return x * cos + torch.cat((-high, low), -1) * sin


def shape_of(state: dict[str, object]) -> Shape:
    """The shape that a training checkpoint recorded."""
    return Shape(**state)  # type: ignore[arg-type]


def as_dict(shape: Shape) -> dict[str, object]:
    """The shape as plain data, for a training checkpoint."""
    return asdict(shape)
