"""`quantization_config` of config.json: how a checkpoint's matrices are packed, or why they are not read.

Sources: AutoAWQ's `WQLinear_GEMM`, GPTQModel's `checkpoint_format`, compressed-tensors' `QuantizationConfig`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from common.errors import InvalidArgument, Reason

CONFIG_FIELD = "quantization_config"
_INSTEAD = "take the checkpoint that it was made from (int8 and int4 quantize it here), or a GGUF of the model"
_Q = Mapping[str, Any]


class Method(StrEnum):
    """Who packed a checkpoint, as `quant_method` says it."""

    AWQ = "awq"
    GPTQ = "gptq"
    COMPRESSED_TENSORS = "compressed-tensors"


BITS: Mapping[Method, tuple[int, ...]] = {
    Method.AWQ: (4,),
    Method.GPTQ: (4, 8),
    Method.COMPRESSED_TENSORS: (4, 8),
}


@dataclass(frozen=True)
class Packing:
    """How whole numbers lie in a checkpoint; a weight is `(value - zero) * scale`."""

    method: Method
    bits: int
    group: int
    """Inputs that share a scale and a zero point; 0: all."""
    symmetric: bool
    """Whether every zero point is the middle, 8 or 128."""
    less_one: bool = False
    """Whether zero points are stored less 1, as in the first version of GPTQ's format."""
    left_out: tuple[str, ...] = ()
    """Modules that are not quantized: names, parts of names, or patterns, as the method lists them."""

    @property
    def middle(self) -> int:
        """The zero point where there is none."""
        return 1 << (self.bits - 1)


def read_packing(config: Mapping[str, Any]) -> Packing | None:
    """The packing that config.json tells; None if it tells none.

    Raises InvalidArgument (CONFIG_UNSUPPORTED) with the field that says what is not read.
    """
    said = config.get(CONFIG_FIELD)
    if said is None:
        return None
    method = said.get("quant_method") if isinstance(said, dict) else None
    if not isinstance(said, dict) or method not in list(Method):
        raise _unread("quant_method", method, ", ".join(Method))
    match Method(method):
        case Method.AWQ:
            return _read_awq(said)
        case Method.GPTQ:
            return _read_gptq(said)
        case Method.COMPRESSED_TENSORS:
            return _read_compressed(said)


def _read_awq(said: _Q) -> Packing:
    _check("version", ("gemm",), said.get("version", "gemm"))
    _check("zero_point", (True,), said.get("zero_point", True))
    bits = _bits("bits", Method.AWQ, said.get("bits", said.get("w_bit", 4)))
    group = _group(said.get("group_size", said.get("q_group_size", 128)), "group_size")
    return Packing(Method.AWQ, bits, group, symmetric=False, left_out=_names(said, "modules_to_not_convert"))


def _read_gptq(said: _Q) -> Packing:
    name = "format" if "format" in said and "checkpoint_format" not in said else "checkpoint_format"
    written = said.get(name, "gptq")
    _check(name, ("gptq", "gptq_v2"), written)
    _check("is_marlin_format", (False,), said.get("is_marlin_format") or False)
    dynamic = said.get("dynamic") or {}
    if not isinstance(dynamic, dict) or any(not str(key).startswith("-:") for key in dynamic):
        raise _unread("dynamic", dynamic, "only modules that are left out, `-:`, with one precision for all others")
    return Packing(
        Method.GPTQ,
        _bits("bits", Method.GPTQ, said.get("bits")),
        _group(said.get("group_size", 128), "group_size"),
        symmetric=said.get("sym", True) is not False,
        less_one=written == "gptq",
        left_out=_names(said, "modules_to_not_convert"),
    )


def _read_compressed(said: _Q) -> Packing:
    if said.get("kv_cache_scheme") is not None:
        raise _unread("kv_cache_scheme", said["kv_cache_scheme"], "none")
    if said.get("sparsity_config") not in (None, {}):
        _check("sparsity_config.format", ("dense",), _part(said["sparsity_config"]).get("format"))
    groups = _part(said.get("config_groups"))
    entries = list(groups.values())
    if not entries or any(
        not isinstance(entry, dict) or entry.get("weights") != entries[0].get("weights") for entry in entries
    ):
        raise _unread("config_groups", groups, "one group, or several with the same weights")
    path, entry = f"config_groups.{next(iter(groups))}", entries[0]
    for each in entries:
        written = each.get("format") or said.get("format")
        _check("format", ("pack-quantized",), written)
    inputs = entry.get("input_activations")
    if isinstance(inputs, dict) and not inputs.get("dynamic"):
        raise _unread(f"{path}.input_activations", inputs, "none, or such as are scaled while the model runs")
    weights = _part(entry.get("weights"))
    _check(f"{path}.weights.type", ("int",), weights.get("type", "int"))
    strategy = weights.get("strategy") or ("group" if weights.get("group_size") else "channel")
    _check(f"{path}.weights.strategy", ("group", "channel", "tensor"), strategy)
    group = _group(weights.get("group_size"), f"{path}.weights.group_size") if strategy == "group" else 0
    return Packing(
        Method.COMPRESSED_TENSORS,
        _bits(f"{path}.weights.num_bits", Method.COMPRESSED_TENSORS, weights.get("num_bits")),
        group,
        symmetric=weights.get("symmetric", True) is not False,
        left_out=_names(said, "ignore"),
    )


def _part(value: object) -> _Q:
    return value if isinstance(value, dict) else {}


def _check(name: str, known: Collection[object], value: object) -> None:
    plain = value.lower() if isinstance(value, str) else value
    if plain not in known:
        raise _unread(name, value, " or ".join(map(str, known)))


def _bits(name: str, method: Method, value: object) -> int:
    _check(name, BITS[method], value)
    assert isinstance(value, int), value
    return value


def _group(value: object, name: str) -> int:
    if value in (-1, None):
        return 0
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise _unread(name, value, "a whole number above 0, or -1")
    return value


def _names(said: _Q, name: str) -> tuple[str, ...]:
    listed = said.get(name) or ()
    if not isinstance(listed, list | tuple) or not all(isinstance(each, str) for each in listed):
        raise _unread(name, listed, "a list of modules")
    return tuple(listed)


def _unread(name: str, value: object, known: str) -> InvalidArgument:
    path = f"{CONFIG_FIELD}.{name}"
    message = f"config.json has {path} = {value!r:.80}; read is {known}; {_INSTEAD}"
    return InvalidArgument(Reason.CONFIG_UNSUPPORTED, message, field=f"source.config.json.{path}")
