"""OLMo-2, OLMo-3 and EXAONE 4: what attention and feed-forward layers write is normed, what they read is not."""

from __future__ import annotations

from dataclasses import replace

from builder_service.families.family import Family
from builder_service.families.llama import ALL_OF_A_HEAD, SILU, USED, read_like_llama
from builder_service.model.config_fields import Fields, unsupported
from builder_service.model.config_values import Config, count, flag, sliding_layers, sliding_window
from builder_service.model.model import Model
from builder_service.model.rope import read_two_ropes
from builder_service.model.tensor_names import Names

NAMES = Names(
    renamed={
        "self_attn.output_norm": "post_attention_layernorm",
        "mlp.output_norm": "post_feedforward_layernorm",
    }
)


def _read_olmo2(config: Config) -> Model:
    biased = flag(config, "attention_bias")
    model = read_like_llama({"rms_norm_eps": 1e-5, **config}, "olmo2")
    model = replace(model, pre_norms=False, post_norms=True, names=NAMES, attention_bias=biased, output_bias=biased)
    return replace(model, head_norm=True, joint_head_norm=True)


def _read_olmo3(config: Config) -> Model:
    """OLMo-2 with layers that have a window of their own, and are rotated without the others' scaling."""
    sliding = sliding_layers(config, 4)
    model = _read_olmo2({name: value for name, value in config.items() if not name.startswith("rope_")})
    shapes = model.architecture
    theta = config.get("rope_theta") or 500_000.0
    longest = count(config, "max_position_embeddings", 2048)
    rope, local = read_two_ropes(config, shapes.head_dim, longest, theta=theta, local_theta=theta)
    window = sliding_window(config, default=4096) if sliding else None
    updated = {"family": "olmo3", "trained_context": rope.trained_context, "sliding_window": window}
    shapes = shapes.model_copy(update=updated)
    return replace(model, architecture=shapes, rope=rope, local_rope=local, local_layers=sliding)


def _read_exaone4(config: Config) -> Model:
    """Where some layers have a window of their own, the others are not rotated."""
    window, sliding = sliding_window(config), _exaone_sliding(config)
    model = read_like_llama({"rms_norm_eps": 1e-5, **config}, "exaone4", window=window if sliding else None)
    model = replace(model, pre_norms=False, post_norms=True, names=NAMES, head_norm=True)
    unrotated = frozenset(range(model.architecture.layers)) - sliding if window else frozenset()
    return replace(model, unrotated_layers=unrotated)


def _exaone_sliding(config: Config) -> frozenset[int]:
    """By `layer_types`, or by a pattern: a number as others have it, or letters L (local) and G for layers in turn."""
    pattern, layers = config.get("sliding_window_pattern"), count(config, "num_hidden_layers")
    if config.get("sliding_window") is None:
        return frozenset()
    if config.get("layer_types") is not None:
        return sliding_layers(config)
    if not isinstance(pattern, str):
        return sliding_layers(config, count(config, "sliding_window_pattern", 4))
    if not pattern or set(pattern) - set("LG"):
        message = f"sliding_window_pattern is {pattern!r:.80}; letters L and G are needed"
        raise unsupported("sliding_window_pattern", message)
    return frozenset(layer for layer in range(layers - 1) if pattern[layer % len(pattern)] == "L")


_WINDOW = frozenset({"sliding_window", "layer_types"})
POST_NORMED = (
    Family("olmo2", ("Olmo2ForCausalLM",), Fields(USED | {"attention_bias"}, SILU | ALL_OF_A_HEAD), _read_olmo2),
    Family(
        "olmo3", ("Olmo3ForCausalLM",), Fields(USED | _WINDOW | {"attention_bias"}, SILU | ALL_OF_A_HEAD), _read_olmo3
    ),
    Family(
        "exaone4",
        ("Exaone4ForCausalLM",),
        Fields(USED | _WINDOW | {"sliding_window_pattern"}, SILU | ALL_OF_A_HEAD, frozenset({"auto_map"})),
        _read_exaone4,
    ),
)
