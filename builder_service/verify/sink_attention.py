"""How much attention the first tokens get: what keeping them buys a model.

Models that were trained without sinks let heads that have nothing to say look at the first tokens, whatever they are
(StreamingLLM, arXiv 2309.17453, section 3.1). Where their share is no larger than that of any other token, a window
alone would do as well.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt


@dataclass
class SinkAttention:
    """Collects from every query that no longer sees all tokens between the sinks and itself."""

    shares: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))  # of each query, by layer
    even: list[float] = field(default_factory=list)  # what each would be if all tokens got the same

    def add(self, layer: int, weights: npt.NDArray[np.float64], sinks: int) -> None:
        """One query's weights [..., seen], which add up to 1; its first `sinks` are the sinks'."""
        self.shares[layer].append(float(weights[..., :sinks].sum(axis=-1).mean()))
        self.even.append(sinks / weights.shape[-1])

    def figures(self) -> dict[str, float]:
        """Means over queries and heads; none where no query was that far.

        `sink_attention` over all layers, `sink_attention_largest` in the layer where it is largest, and
        `sink_attention_even` if all tokens got the same.
        """
        if not self.even:
            return {}
        layers = [float(np.mean(shares)) for shares in self.shares.values()]
        return {
            "sink_attention": float(np.mean(layers)),
            "sink_attention_largest": max(layers),
            "sink_attention_even": float(np.mean(self.even)),
        }
