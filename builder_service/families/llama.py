"""Llama, and the families whose config.json and checkpoints are Llama's but for a choice or two."""

from __future__ import annotations

from dataclasses import replace

from builder_service.families.family import Family
from builder_service.model.config_fields import Fields, unsupported
from builder_service.model.config_values import Config, count, epsilon, flag, head_sizes, share, sliding_window
from builder_service.model.model import ROUTER, Experts, Model, Norm
from builder_service.model.rope import read_rope_config, rope_fields
from builder_service.model.tensor_names import Names
from common.spec.manifest import Architecture

USED = frozenset(
    "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim "  # noqa: SIM905 - a list of words
    "max_position_embeddings rms_norm_eps tie_word_embeddings rope_theta rope_scaling rope_parameters "
    "original_max_position_embeddings".split()
)
SILU: dict[str, tuple[object, ...]] = {"hidden_act": ("silu", "swish")}
ALL_OF_A_HEAD: dict[str, tuple[object, ...]] = {"partial_rotary_factor": (1,)}
WINDOW = frozenset({"sliding_window", "use_sliding_window", "max_window_layers", "layer_types"})

MIXTURE = Names(renamed={f"mlp.{ROUTER}": "mlp.gate"})


def read_shapes(config: Config, family: str, trained_context: int, *, window: int | None = None) -> Architecture:
    """Shapes under Llama's names; parameters are counted later."""
    hidden, heads = count(config, "hidden_size"), count(config, "num_attention_heads")
    kv_heads = count(config, "num_key_value_heads", heads)
    return Architecture(
        family=family,
        layers=count(config, "num_hidden_layers"),
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_sizes(config, hidden, heads, kv_heads),
        intermediate=count(config, "intermediate_size"),
        vocabulary=count(config, "vocab_size"),
        trained_context=trained_context,
        sliding_window=window,
        parameters=0,
    )


def read_like_llama(config: Config, family: str, *, window: int | None = None, rotated: float | None = None) -> Model:
    """A model without biases, under Llama's names; `rotated` is the share of a head, where it may be a part."""
    shapes = read_shapes(config, family, 1, window=window)
    width = int(shapes.head_dim * (1 if rotated is None else rotated))
    longest = count(config, "max_position_embeddings", 2048)
    rope = read_rope_config(config, width, longest, part=rotated is not None)
    return Model(
        architecture=shapes.model_copy(update={"trained_context": rope.trained_context}),
        norm=Norm(epsilon(config, "rms_norm_eps", 1e-6)),
        rope=rope,
        tied=flag(config, "tie_word_embeddings"),
    )


def rotated_share(config: Config, default: float) -> float:
    """Share of each head that is rotated, in either spelling."""
    return share({**rope_fields(config), **config}, "partial_rotary_factor", default)


def _read_llama(config: Config) -> Model:
    attention, mlp = flag(config, "attention_bias"), flag(config, "mlp_bias")
    model = read_like_llama(config, "llama")
    return replace(model, attention_bias=attention, output_bias=attention, mlp_bias=mlp)


def _read_mistral(config: Config) -> Model:
    return read_like_llama(config, "mistral", window=sliding_window(config))


def _read_qwen2(config: Config) -> Model:
    return replace(read_like_llama(config, "qwen2", window=sliding_window(config)), attention_bias=True)


def _read_qwen3(config: Config) -> Model:
    biased = flag(config, "attention_bias")
    model = read_like_llama({"head_dim": 128, **config}, "qwen3", window=sliding_window(config))
    return replace(model, head_norm=True, attention_bias=biased, output_bias=biased)


def _read_qwen3_moe(config: Config) -> Model:
    if not flag(config, "norm_topk_prob"):
        message = "config.json has norm_topk_prob = false; only mixtures whose shares add up to 1 are computed"
        raise unsupported("norm_topk_prob", message)
    known = {"num_experts": config.get("num_local_experts"), **config}
    names = ("num_experts", "num_experts_per_tok", "moe_intermediate_size")
    experts, used, width = (count(known, name) for name in names)
    if used > experts:
        message = f"config.json has num_experts_per_tok = {used} of num_experts = {experts}"
        raise unsupported("num_experts_per_tok", message)
    model = _read_qwen3({"use_sliding_window": False, **config})
    shapes = model.architecture.model_copy(update={"family": "qwen3_moe"})
    return replace(model, architecture=shapes, experts=Experts(experts, used, width), names=MIXTURE)


LLAMA = Family(
    "llama",
    ("LlamaForCausalLM", "LLaMAForCausalLM"),  # the second is what its first conversions wrote
    Fields(
        USED | {"attention_bias", "mlp_bias"},
        SILU | ALL_OF_A_HEAD | {"sliding_window": (), "use_sliding_window": (False,)},
    ),
    _read_llama,
)
MISTRAL = Family("mistral", ("MistralForCausalLM",), Fields(USED | WINDOW, SILU | ALL_OF_A_HEAD), _read_mistral)
QWEN2 = Family("qwen2", ("Qwen2ForCausalLM",), Fields(USED | WINDOW, SILU | ALL_OF_A_HEAD), _read_qwen2)
QWEN3 = Family(
    "qwen3", ("Qwen3ForCausalLM",), Fields(USED | WINDOW | {"attention_bias"}, SILU | ALL_OF_A_HEAD), _read_qwen3
)
QWEN3_MOE = Family(
    "qwen3_moe",
    ("Qwen3MoeForCausalLM",),
    Fields(
        USED
        | WINDOW
        | {"attention_bias", "num_experts", "num_local_experts", "num_experts_per_tok", "moe_intermediate_size"}
        | {"norm_topk_prob"},
        SILU | ALL_OF_A_HEAD | {"decoder_sparse_step": (1,), "mlp_only_layers": ([],)},
        frozenset({"output_router_logits", "router_aux_loss_coef"}),
    ),
    _read_qwen3_moe,
)
