"""What this machine's processor can do, and whether that is enough for an engine."""

from __future__ import annotations

from pathlib import Path

from common.errors import FailedPrecondition, Reason
from common.spec import Precision

EXACT_INT8 = ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp")
"""Any of these multiplies unsigned by signed bytes without saturating in 16 bits."""


def needed_features(precision: Precision) -> tuple[str, ...]:
    """Features of which a processor must have one to run an engine of `precision`; none: any processor will do."""
    return EXACT_INT8 if precision is Precision.INT8 else ()


def cpu_features(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Features of the first processor as Linux names them, such as `avx512_vnni`; empty where it does not say."""
    if not cpuinfo.exists():
        return frozenset()
    for line in cpuinfo.read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() in {"flags", "Features"}:
            return frozenset(value.split())
    return frozenset()


def check_cpu(needed: tuple[str, ...], found: frozenset[str]) -> None:
    """Raises FailedPrecondition (ENGINE_INCOMPATIBLE) unless `needed` is empty or one of them was `found`.

    Without these instructions onnxruntime's 8-bit products saturate in 16 bits: not slow, but wrong.
    """
    if needed and not found.intersection(needed):
        vector = sorted(feature for feature in found if feature.startswith(("avx", "amx", "sse4", "asimd")))
        raise FailedPrecondition(
            Reason.ENGINE_INCOMPATIBLE,
            f"the engine needs a processor with one of {', '.join(needed)}; "
            f"this one has {', '.join(vector) or 'none that is known'}. Build it with precision fp32 or int4 instead",
            expected=" ".join(needed),
            found=" ".join(vector),
        )
