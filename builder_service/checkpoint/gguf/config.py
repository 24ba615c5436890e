"""A GGUF's metadata in the terms of config.json, so that a family reads either.

What is not known here keeps its GGUF key, and the family refuses it by that name, as it does any unknown field.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from builder_service.checkpoint.files import invalid
from builder_service.checkpoint.gguf.kinds import KINDS, WITH_WINDOW, Kind
from common.errors import InvalidArgument, Reason

Metadata = Mapping[str, Any]


_SAME = {
    "vocab_size": "vocab_size",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.sliding_window": "sliding_window",
    "rope.freq_base": "rope_theta",
}
"""Keys without the architecture's name before them."""
_SILENT = {
    "attention.causal": (True,),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "expert_gating_func": (1,),  # softmax
    "expert_weights_norm": (True,),
    "expert_weights_scale": (0.0, 1.0),
    "rope.scaling.finetuned": (True, False),
    "tensor_data_layout": ("Meta AI original pth",),
}
"""Keys that change nothing with these values."""
_ROPE = {
    "factor": "factor",
    "original_context_length": "original_max_position_embeddings",
    "attn_factor": "attention_factor",
    "yarn_beta_fast": "beta_fast",
    "yarn_beta_slow": "beta_slow",
}
"""Keys under `rope.scaling`."""
THETA = 10_000.0
"""Base of the rotation where a file gives none."""
FREQUENCY_FACTORS = "rope_freqs.weight"
LONG_FACTORS, SHORT_FACTORS = "rope_factors_long.weight", "rope_factors_short.weight"
ROPE_TENSORS = (FREQUENCY_FACTORS, LONG_FACTORS, SHORT_FACTORS)


def kind_of(metadata: Metadata, file: str) -> Kind:
    """Raises InvalidArgument: ARCHITECTURE_UNSUPPORTED, or CHECKPOINT_INVALID where none is named."""
    name = metadata.get("general.architecture")
    if not isinstance(name, str):
        raise invalid(f"{file} does not say its general.architecture", file=file)
    if name in WITH_WINDOW and metadata.get(f"{name}.attention.sliding_window"):
        return WITH_WINDOW[name]
    if name not in KINDS:
        message = f"{file} is of GGUF architecture {name}, which is not supported; supported: {', '.join(KINDS)}"
        raise InvalidArgument(
            Reason.ARCHITECTURE_UNSUPPORTED, message, field="source.general.architecture", architecture=name
        )
    return KINDS[name]


def read_config(
    metadata: Metadata, names: Collection[str], factors: Callable[[str], list[float]], file: str
) -> dict[str, Any]:
    """config.json of a GGUF that has tensors of these `names`; `factors` reads one of ROPE_TENSORS.

    Raises what `kind_of` does, and InvalidArgument (CHECKPOINT_INVALID) for heads that differ in width.
    """
    kind, prefix = kind_of(metadata, file), f"{metadata['general.architecture']}."
    own = {key.removeprefix(prefix): value for key, value in metadata.items() if key.startswith(prefix)}
    fields = {**_SAME, **kind.keys}
    config = {name: _rounded(own.pop(key)) for key, name in fields.items() if key in own}
    if config.get("sliding_window") == 0:  # none
        del config["sliding_window"]
    if isinstance(tokens := metadata.get("tokenizer.ggml.tokens"), list):
        config.setdefault("vocab_size", len(tokens))
    config |= {
        "architectures": [kind.architecture],
        "model_type": kind.model_type,
        "tie_word_embeddings": "output.weight" not in names,
        **kind.said,
        **{name: f"blk.0.{bias}" in names for name, bias in kind.biases.items()},
    }
    config.setdefault("rope_theta", THETA)
    config |= _rotation(own, config, names, factors, file)
    _check_heads(own, config, file, part=kind.part_rotated)
    kind.complete(own, config, file)
    for key, allowed in _SILENT.items():
        if own.get(key) in allowed:
            del own[key]
    return config | {prefix + key: value for key, value in own.items()}


def _rounded(value: Any) -> Any:  # noqa: ANN401 - of any type
    """A float32 as the decimal number that it was made of: 1e-5, not 9.99999974e-06."""
    return float(str(np.float32(value))) if isinstance(value, float) else value


def _rotation(
    own: dict[str, Any],
    config: Mapping[str, Any],
    names: Collection[str],
    factors: Callable[[str], list[float]],
    file: str,
) -> dict[str, Any]:
    """What config.json says about rotation; takes the keys that were read out of `own`."""
    scaling = own.pop("rope.scaling.type", "none")
    fields = {
        name: _rounded(own.pop(f"rope.scaling.{key}")) for key, name in _ROPE.items() if f"rope.scaling.{key}" in own
    }
    original = fields.get("original_max_position_embeddings", config.get("max_position_embeddings"))
    if FREQUENCY_FACTORS in names:  # Llama 3.1's frequencies, already computed
        if scaling not in ("none", "longrope"):
            raise invalid(f"{file} has {FREQUENCY_FACTORS} besides a rope.scaling.type of {scaling}", file=file)
        shared = factors(FREQUENCY_FACTORS)
        kept = {"attention_factor": 1.0, "original_max_position_embeddings": original}
        return {"rope_scaling": {"rope_type": "longrope", "short_factor": shared, "long_factor": shared, **kept}}
    if LONG_FACTORS in names:
        both = {"short_factor": factors(SHORT_FACTORS), "long_factor": factors(LONG_FACTORS)}
        return {
            "rope_scaling": {"rope_type": "longrope", **both, **fields, "original_max_position_embeddings": original}
        }
    if scaling == "none":
        return {"rope_scaling": fields} if fields.keys() - {"factor", "original_max_position_embeddings"} else {}
    return {"rope_scaling": {"rope_type": scaling, **fields}}


def _check_heads(own: dict[str, Any], config: dict[str, Any], file: str, *, part: bool) -> None:
    """Heads of keys and values are equally wide, and rotation takes all of a head or the share that is written.

    Other defaults than llama.cpp's are overruled; `part`: that of the share is another.
    """
    heads = _whole(config.get("num_attention_heads"), "attention.head_count", file)
    width = config.get("head_dim") or _whole(config.get("hidden_size"), "embedding_length", file) // heads
    config["head_dim"] = width
    values, rotated = own.pop("attention.value_length", width), own.pop("rope.dimension_count", width)
    if values != width:
        message = f"{file} has heads of {width} for keys and of {values} for values; equal ones are needed"
        raise invalid(message, file=file)
    if rotated != width or part:
        whole = _whole(width, "attention.key_length", file)
        config["partial_rotary_factor"] = _whole(rotated, "rope.dimension_count", file) / whole


def _whole(value: object, key: str, file: str) -> int:
    """A count that is needed here already; others are checked by the family."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise invalid(f"{file} has {key} = {value!r:.80}; a whole number above 0 is needed", file=file)
    return value
