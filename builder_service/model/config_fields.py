"""The fields of a config.json: which are computed, which change nothing, which are computed with one value only.

A field that is not known may change the maths, so it is refused by name unless the spec lists it as safe. Fields that
begin with an underscore are what a library notes for itself.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from builder_service.checkpoint.packed.packing import CONFIG_FIELD, read_packing
from common.errors import FieldViolation, InvalidArgument, Reason

# Lists of words read better than lists of strings (SIM905).
# Known not to change what the model computes: training, bookkeeping, defaults of generation.
HARMLESS = frozenset(
    "attention_dropout attn_implementation bad_words_ids begin_suppress_tokens bos_token_id cache_implementation "  # noqa: SIM905
    "chunk_size_feed_forward diversity_penalty do_sample dtype early_stopping "
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
    "rope_interleaved": (False,),
    "use_mrope": (False,),
    "tie_encoder_decoder": (False,),
}


@dataclass(frozen=True)
class Fields:
    """Fields of one family: those that its reader reads, and those that may only have certain values."""

    used: frozenset[str]
    fixed: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    harmless: frozenset[str] = frozenset()


def check_fields(config: Mapping[str, Any], fields: Fields, ignore: Collection[str]) -> None:
    """Raise InvalidArgument (CONFIG_UNSUPPORTED) naming every field that may change what the model computes."""
    fixed = {**FIXED, **fields.fixed}
    known = fields.used | fields.harmless | HARMLESS | fixed.keys() | {"architectures", "model_type", CONFIG_FIELD}
    said = {name: value for name, value in config.items() if value is not None and name not in ignore}
    read_packing(said)
    wrong = {name: value for name, value in said.items() if name in fixed and value not in fixed[name]}
    unknown = {name: value for name, value in said.items() if name not in known and not name.startswith("_")}
    if not (wrong or unknown):
        return
    found = {name: f"{_field(name, value)}{_but(fixed[name])}" for name, value in wrong.items()}
    messages = [f"config.json has {each}" for each in found.values()]
    if unknown:
        messages.append(_unknown(unknown, [name for name in ignore if name in config]))
    found |= {name: f"{_field(name, value)} is not known here" for name, value in unknown.items()}
    violations = tuple(FieldViolation(_path(name), each) for name, each in found.items())
    raise InvalidArgument(Reason.CONFIG_UNSUPPORTED, "; ".join(messages), violations=violations)


def _unknown(fields: Mapping[str, object], ignored: Collection[str]) -> str:
    """What is not known, and the line that accepts it besides what is ignored already."""
    listed = ", ".join(_field(*field) for field in fields.items())
    return (
        f"config.json has what is not known here: {listed}. If none of it changes what the model computes, accept it "
        f"by --set 'options.ignore_config_fields=[{', '.join((*ignored, *fields))}]', or by the same line in the spec"
    )


def _field(name: str, value: object) -> str:
    return f"{name} = {value!r:.80}"


def _but(options: tuple[object, ...]) -> str:
    allowed = " or ".join(repr(option) for option in options)
    return f"; only {allowed} is supported" if options else ", which is not supported"


def unsupported(name: str, message: str) -> InvalidArgument:
    """The error for one field of config.json."""
    return InvalidArgument(Reason.CONFIG_UNSUPPORTED, message, field=_path(name))


def _path(name: str) -> str:
    return f"source.config.json.{name}"
