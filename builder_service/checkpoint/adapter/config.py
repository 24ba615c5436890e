"""What adapter_config.json says of a LoRA adapter: how much of each product is added to the weights.

Source: https://huggingface.co/docs/peft, "LoRA", `LoraConfig`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder_service.checkpoint.files import ADAPTER_FIELD, read_json
from common.errors import InvalidArgument, Reason

ADAPTER_CONFIG = "adapter_config.json"
LONGEST_PATTERN = 256
MOST_REPEATS = 4
"""Of `*`, `+` and the like in a pattern: with more, a match may take very long."""
_REPEATED_GROUP = re.compile(r"[)*+?}][*+{]")
_REPEAT = re.compile(r"[*+?{]")
_UNCHANGED = (True, False, "gaussian", "eva", "orthogonal", "mica")
"""Ways to begin training that leave the weights of the model as they were."""
_READ = frozenset(
    "peft_type r lora_alpha rank_pattern alpha_pattern use_rslora use_dora bias init_lora_weights "  # noqa: SIM905 - a list of words
    "base_model_name_or_path".split()
)
_SAID_BY_TENSORS = frozenset(
    "target_modules exclude_modules modules_to_save layers_to_transform layers_pattern".split()  # noqa: SIM905 - likewise
)
_OF_TRAINING = frozenset(
    "task_type inference_mode lora_dropout revision auto_mapping peft_version loftq_config eva_config corda_config "  # noqa: SIM905 - likewise
    "lora_ga_config megatron_core qalora_group_size runtime_config ensure_weight_tying "
    "fan_in_fan_out".split()  # which peft ignores for layers that store [out, in], as those of all families here do
)


@dataclass(frozen=True)
class AdapterConfig:
    """Ranks and factors of an adapter's products; see `LoraConfig` for the names."""

    rank: int
    alpha: float
    ranks: Mapping[str, int]
    """Of modules that a pattern matches, by pattern."""
    alphas: Mapping[str, float]
    by_root: bool
    """rsLoRA: the factor is alpha by the square root of the rank."""
    magnitudes: bool
    """DoRA: what is added turns rows, and their lengths are stored."""
    base: str
    """The model that it was trained with, as it was named there; empty: nothing is said."""

    def rank_of(self, module: str) -> int:
        """The rank of a module, by its name in the model."""
        return self.ranks.get(_pattern_of(module, self.ranks), self.rank)

    def scale_of(self, module: str) -> float:
        """What the product of a module's two matrices is multiplied by."""
        rank, alpha = self.rank_of(module), self.alphas.get(_pattern_of(module, self.alphas), self.alpha)
        return alpha / (math.sqrt(rank) if self.by_root else rank)


def read_config(folder: Path) -> AdapterConfig:
    """The config in a folder. Raises what `read_json` does, and InvalidArgument (INVALID_SPEC) for what is not merged,
    by its name.
    """
    said = {name: value for name, value in read_json(folder / ADAPTER_CONFIG).items() if value is not None}
    _check_known(said)
    return AdapterConfig(
        rank=_rank("r", said.get("r", 8)),
        alpha=_number("lora_alpha", said.get("lora_alpha", 8)),
        ranks={name: _rank("rank_pattern", value) for name, value in _patterns(said, "rank_pattern")},
        alphas={name: _number("alpha_pattern", value) for name, value in _patterns(said, "alpha_pattern")},
        by_root=_flag(said, "use_rslora"),
        magnitudes=_flag(said, "use_dora"),
        base=str(said.get("base_model_name_or_path", "")),
    )


def _check_known(said: Mapping[str, Any]) -> None:
    """Refuse kinds of adapters that are not merged, and fields that are not known unless they are empty."""
    if (kind := said.get("peft_type")) != "LORA":
        raise _wrong("peft_type", kind, "only LORA is merged")
    if said.get("bias", "none") not in ("none", "all", "lora_only"):
        raise _wrong("bias", said["bias"], "none, all or lora_only is needed")
    if (begun := said.get("init_lora_weights", True)) not in _UNCHANGED:
        why = "it changes the weights of the model before training; peft saves such an adapter as plain LoRA with "
        raise _wrong("init_lora_weights", begun, why + "path_initial_model_for_weight_conversion")
    for name in sorted(said.keys() - _READ - _SAID_BY_TENSORS - _OF_TRAINING):
        if said[name] not in (False, {}, [], ""):
            why = "it is not known how that is merged; merge with peft (merge_and_unload), or remove the field if it "
            raise _wrong(name, said[name], why + "changes nothing")


def _patterns(said: Mapping[str, Any], field: str) -> list[tuple[str, object]]:
    found = said.get(field, {})
    if not isinstance(found, dict):
        raise _wrong(field, found, "an object from patterns to numbers is needed")
    for pattern in found:
        _check_pattern(field, pattern)
    return list(found.items())


def _check_pattern(field: str, pattern: str) -> None:
    """A pattern comes from elsewhere, and a match must not take for ever."""
    if (
        len(pattern) > LONGEST_PATTERN
        or _REPEATED_GROUP.search(pattern)
        or len(_REPEAT.findall(pattern)) > MOST_REPEATS
    ):
        why = f"a pattern has at most {LONGEST_PATTERN} characters, {MOST_REPEATS} repeats, and none of a group"
        raise _wrong(field, pattern, why)
    try:
        re.compile(pattern)
    except (re.error, OverflowError) as error:
        raise _wrong(field, pattern, f"it is no pattern: {error}") from None


def _pattern_of(module: str, patterns: Iterable[str]) -> str:
    """The first pattern that the name matches as a whole, or from one of its dots on; empty: none."""
    return next((pattern for pattern in patterns if re.match(rf"(.*\.)?({pattern})$", module)), "")


def _rank(field: str, value: object) -> int:
    if type(value) is not int or not 0 < value <= 1 << 20:
        raise _wrong(field, value, "a rank of 1 or more is needed")
    return value


def _number(field: str, value: object) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):  # type: ignore[arg-type]
        raise _wrong(field, value, "a number is needed")
    return float(value)  # type: ignore[arg-type]


def _flag(said: Mapping[str, Any], field: str) -> bool:
    if not isinstance(value := said.get(field, False), bool):
        raise _wrong(field, value, "true or false is needed")
    return value


def _wrong(field: str, value: object, why: str) -> Exception:
    return refused(f"{ADAPTER_CONFIG} has {field} = {value!r:.80}; {why}", file=ADAPTER_CONFIG)


def refused(message: str, *, file: str, tensor: str = "") -> InvalidArgument:
    """The error for an adapter that is whole, and cannot be merged into this model, or into any."""
    return InvalidArgument(Reason.INVALID_SPEC, message, field=ADAPTER_FIELD, file=file, tensor=tensor)
