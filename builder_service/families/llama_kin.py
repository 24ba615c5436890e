"""Families that are Llama but for a choice: Granite, SmolLM3, Seed-OSS, Arcee, InternLM 2 and 3."""

from __future__ import annotations

from dataclasses import replace

from builder_service.families.family import Family
from builder_service.families.llama import ALL_OF_A_HEAD, SILU, USED, WINDOW, read_like_llama
from builder_service.model.config_fields import Fields, unsupported
from builder_service.model.config_values import Config, choice, count, flag, number, sliding_window
from builder_service.model.model import ACTIVATIONS, Model, Scales
from builder_service.model.tensor_names import Fused, Names

BIASES = frozenset({"attention_bias", "mlp_bias"})
MULTIPLIERS = frozenset({"embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling"})
INTERNLM2 = Names(
    renamed={
        "model.embed_tokens": "model.tok_embeddings",
        "lm_head": "output",
        "input_layernorm": "attention_norm",
        "post_attention_layernorm": "ffn_norm",
        "self_attn.q_proj": "attention.wqkv",
        "self_attn.k_proj": "attention.wqkv",
        "self_attn.v_proj": "attention.wqkv",
        "self_attn.o_proj": "attention.wo",
        "mlp.gate_proj": "feed_forward.w1",
        "mlp.up_proj": "feed_forward.w3",
        "mlp.down_proj": "feed_forward.w2",
    },
    fused_qkv=Fused.BY_GROUP,
)


def _biased(model: Model, *, attention: bool, output: bool, mlp: bool) -> Model:
    return replace(model, attention_bias=attention, output_bias=output, mlp_bias=mlp)


def _read_granite(config: Config) -> Model:
    attention = flag(config, "attention_bias")
    scales = Scales(
        embedding=number(config, "embedding_multiplier", 1.0),
        residual=number(config, "residual_multiplier", 1.0),
        scores=number(config, "attention_multiplier", 1.0),
        logits=1 / number(config, "logits_scaling", 1.0),
    )
    model = replace(read_like_llama(config, "granite"), scales=scales)
    return _biased(model, attention=attention, output=attention, mlp=flag(config, "mlp_bias"))


def _read_smollm3(config: Config) -> Model:
    attention = flag(config, "attention_bias")
    known = {"rope_theta": 2e6, "max_position_embeddings": 32768, "tie_word_embeddings": True, **config}
    window = sliding_window(config) if flag(config, "use_sliding_window") else None
    model = replace(read_like_llama(known, "smollm3", window=window), unrotated_layers=_unrotated(config))
    return _biased(model, attention=attention, output=attention, mlp=flag(config, "mlp_bias"))


def _unrotated(config: Config) -> frozenset[int]:
    """Layers that 0 stands for in `no_rope_layers`, or every `no_rope_layer_interval`-th."""
    layers, rotated = count(config, "num_hidden_layers"), config.get("no_rope_layers")
    if rotated is None:
        every = count(config, "no_rope_layer_interval", 4)
        return frozenset(range(every - 1, layers, every))
    if not isinstance(rotated, list) or len(rotated) < layers or any(value not in (0, 1) for value in rotated):
        message = f"config.json has no_rope_layers = {rotated!r:.80}; {layers} times 0 or 1 is needed"
        raise unsupported("no_rope_layers", message)
    return frozenset(layer for layer in range(layers) if not rotated[layer])


def _read_seed_oss(config: Config) -> Model:
    return _biased(
        read_like_llama({"head_dim": 128, **config}, "seed_oss"),
        attention=flag(config, "attention_bias", default=True),
        output=flag(config, "attention_out_bias"),
        mlp=flag(config, "mlp_bias"),
    )


def _read_arcee(config: Config) -> Model:
    attention, activation = flag(config, "attention_bias"), choice(config, "hidden_act", ACTIVATIONS, "relu2")
    model = read_like_llama({"rms_norm_eps": 1e-5, **config}, "arcee")
    model = replace(model, gated=False, activation=activation)
    return _biased(model, attention=attention, output=attention, mlp=flag(config, "mlp_bias"))


def _read_internlm2(config: Config) -> Model:
    biased = flag(config, "bias")
    model = replace(read_like_llama(config, "internlm2"), names=INTERNLM2)
    return _biased(model, attention=biased, output=biased, mlp=False)


def _read_internlm3(config: Config) -> Model:
    known = {"rms_norm_eps": 1e-5, "qkv_bias": config.get("attention_bias"), "bias": config.get("mlp_bias"), **config}
    biased = flag(known, "bias")
    return _biased(read_like_llama(known, "internlm3"), attention=flag(known, "qkv_bias"), output=biased, mlp=biased)


_LLAMAS = SILU | ALL_OF_A_HEAD
LLAMA_KIN = (
    Family("granite", ("GraniteForCausalLM",), Fields(USED | BIASES | MULTIPLIERS, _LLAMAS), _read_granite),
    Family(
        "smollm3",
        ("SmolLM3ForCausalLM",),
        Fields(USED | BIASES | WINDOW | {"no_rope_layers", "no_rope_layer_interval"}, _LLAMAS),
        _read_smollm3,
    ),
    Family(
        "seed_oss",
        ("SeedOssForCausalLM",),
        Fields(USED | BIASES | {"attention_out_bias"}, _LLAMAS, frozenset({"residual_dropout"})),
        _read_seed_oss,
    ),
    Family("arcee", ("ArceeForCausalLM",), Fields(USED | BIASES | {"hidden_act"}, ALL_OF_A_HEAD), _read_arcee),
    Family(
        "internlm2",
        ("InternLM2ForCausalLM",),
        Fields(USED | {"bias"}, _LLAMAS, frozenset({"auto_map"})),
        _read_internlm2,
    ),
    Family(
        "internlm3",
        ("InternLM3ForCausalLM", "LlamaForCausalLM"),  # the second is how Hugging Face's library saves it
        Fields(USED | BIASES | {"bias", "qkv_bias"}, _LLAMAS, frozenset({"auto_map"})),
        _read_internlm3,
    ),
)
