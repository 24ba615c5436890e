"""How far a logit may be from that of another engine, relative to the largest, by precision."""

from __future__ import annotations

from common.spec.model_spec import Precision

TOLERANCES = {Precision.FP32: 1e-4, Precision.FP16: 2**-6, Precision.BF16: 2**-3}
