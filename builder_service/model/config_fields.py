"""The fields of a config.json: which are computed, which change nothing, which are computed with one value only.

A field that is not known may change the maths, so it is refused by name unless the spec lists it as safe.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from common.errors import InvalidArgument, Reason

# Lists of words read better than lists of strings (SIM905).
# Known not to change what the model computes: training, bookkeeping, defaults of generation.
HARMLESS = frozenset(
    "_attn_implementation _attn_implementation_autoset _name_or_path attention_dropout bad_words_ids "  # noqa: SIM905
    "begin_suppress_tokens bos_token_id chunk_size_feed_forward diversity_penalty do_sample dtype early_stopping "
    "encoder_no_repeat_ngram_size eos_token_id exponential_decay_length_penalty finetuning_task forced_bos_token_id "
    "forced_eos_token_id hidden_dropout id2label initializer_range is_llama_config keys_to_ignore_at_inference "
    "label2id length_penalty max_length max_sequence_length min_length no_repeat_ngram_size num_beam_groups num_beams "
    "num_return_sequences output_attentions output_hidden_states output_scores pad_token_id prefix pretraining_tp "
    "problem_type remove_invalid_values repetition_penalty return_dict return_dict_in_generate sep_token_id "
    "suppress_tokens task_specific_params temperature tf_legacy_loss tokenizer_class top_k top_p torch_dtype "
    "torchscript transformers.js_config transformers_version typical_p unk_token_id unsloth_fixed unsloth_version "
    "use_bfloat16 use_cache".split()
)
# Known in every family, and computed only with these values.
FIXED: Mapping[str, tuple[object, ...]] = {
    "is_decoder": (False, True),
    "add_cross_attention": (False,),
    "cross_attention_hidden_size": (),
    "is_encoder_decoder": (False,),
    "pruned_heads": ({},),
    "quantization_config": (),
    "rope_interleaved": (False,),
    "tie_encoder_decoder": (False,),
}


@dataclass(frozen=True)
class Fields:
    """Fields of one family: those that its reader reads, and those that may only have certain values."""

    used: frozenset[str]
    fixed: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    harmless: frozenset[str] = frozenset()


def check_fields(config: Mapping[str, Any], fields: Fields, ignore: Collection[str]) -> None:
    """Raise InvalidArgument (CONFIG_UNSUPPORTED) for the first field that may change what the model computes."""
    fixed = {**FIXED, **fields.fixed}
    known = (fields.used | fields.harmless | HARMLESS | {"architectures", "model_type"}) - fixed.keys()
    for name, value in config.items():
        if value is None or name in ignore or name in known:
            continue
        if name not in fixed:
            message = (
                f"config.json has a field that is not known here: {name} = {value!r}. If it does not change what the "
                "model computes, list it under options.ignore_config_fields"
            )
            raise unsupported(name, message)
        if value not in fixed[name]:
            allowed = " or ".join(repr(option) for option in fixed[name]) or "nothing"
            raise unsupported(name, f"config.json has {name} = {value!r}; only {allowed} is supported")


def unsupported(name: str, message: str) -> InvalidArgument:
    """The error for one field of config.json."""
    return InvalidArgument(Reason.CONFIG_UNSUPPORTED, message, field=f"source.config.json.{name}")
