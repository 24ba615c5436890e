"""What a checkpoint says about generation: the tokens that end a turn, and its defaults for sampling."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from builder_service.checkpoint.files import invalid
from common.spec.manifest import GenerationDefaults

_FILE = "generation_config.json"
LARGEST = 2**53  # what the manifest, being JSON, can say exactly


# Fields that change nothing here: bookkeeping, and what only beams, training or other kinds of models have.
_HARMLESS = frozenset(
    "_from_model_config bos_token_id cache_config cache_implementation decoder_start_token_id do_sample "  # noqa: SIM905
    "early_stopping eos_token_id is_assistant length_penalty low_memory max_length num_return_sequences "
    "output_attentions output_hidden_states output_logits output_scores pad_token_id prefill_chunk_size "
    "return_dict_in_generate token_healing transformers_version use_cache disable_compile trust_remote_code".split()
)
# What other fields have where they change nothing.
_NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "diversity_penalty": (0, 0.0),
    "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1, 1.0),
    "epsilon_cutoff": (0, 0.0),
    "eta_cutoff": (0, 0.0),
    "guidance_scale": (1, 1.0),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "no_repeat_ngram_size": (0,),
    "num_beam_groups": (1,),
    "num_beams": (1,),
    "penalty_alpha": (0, 0.0),
    "typical_p": (1, 1.0),
}
_READ = frozenset(GenerationDefaults.model_fields)


def not_honoured(generation: Mapping[str, Any]) -> tuple[str, ...]:
    """A warning for each field that may change what is generated elsewhere, and does not here."""
    fields = {name: value for name, value in generation.items() if name not in _READ | _HARMLESS}
    return tuple(
        f"{_FILE} has {name} = {value!r:.80}, which is not honoured here"
        for name, value in fields.items()
        if value not in (None, False, [], {}, *_NEUTRAL.get(name, ()))
    )


def end_tokens(config: Mapping[str, Any], generation: Mapping[str, Any], vocabulary: int) -> tuple[int, ...]:
    """Tokens that end a turn: `eos_token_id` of generation_config.json, else of config.json.

    Raises InvalidArgument (CHECKPOINT_INVALID) for anything but a token id or a list of token ids.
    """
    found = generation.get("eos_token_id")
    file = _FILE if found is not None else "config.json"
    found = config.get("eos_token_id") if found is None else found
    tokens = found if isinstance(found, list) else [] if found is None else [found]
    for token in tokens:
        if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < vocabulary:
            message = f"{file} has eos_token_id {token!r}; token ids of this model run from 0 to {vocabulary - 1}"
            raise invalid(message, file=file)
    return tuple(sorted(set(tokens)))


def generation_defaults(generation: Mapping[str, Any]) -> GenerationDefaults:
    """Defaults for sampling; raises InvalidArgument (CHECKPOINT_INVALID) for one of the wrong kind.

    A value that is only out of range, such as a `top_p` of 7, is kept as it is: a runtime ignores it.
    """
    known = {name: generation.get(name) for name in GenerationDefaults.model_fields}
    if isinstance(known["stop_strings"], str):
        known["stop_strings"] = [known["stop_strings"]]
    for name, value in known.items():
        if isinstance(value, int | float) and not abs(value) <= LARGEST:
            message = f"{_FILE} has {name} = {value!r:.80}; a number of at most {LARGEST} is needed"
            raise invalid(message, file=_FILE)
    try:
        return GenerationDefaults.model_validate(known)
    except ValidationError as error:
        first = error.errors()[0]
        message = f"{_FILE} has {first['loc'][0]} = {first['input']!r}: {first['msg']}"
        raise invalid(message, file=_FILE) from None
