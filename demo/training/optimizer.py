"""Muon: momentum whose matrix update is made orthogonal, which learns recall in fewer steps than AdamW here."""

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn


class Muon:
    """Muon over two-dimensional weights. Matrices of one shape are stacked, so a step is a few batched products."""

    def __init__(self, weights: Iterable[nn.Parameter], rate: float) -> None:
        self.rate, self.momentum, self.decay = rate, 0.95, 0.05
        self.groups: dict[tuple[int, ...], list[nn.Parameter]] = defaultdict(list)
        for weight in weights:
            self.groups[tuple(weight.shape)].append(weight)
        self.state = {shape: torch.zeros(len(group), *shape) for shape, group in self.groups.items()}

    @torch.no_grad()
    def step(self, scale: float) -> None:
        """One update with the learning rate times `scale`; gradients are left to `zero_grad`."""
        rate = self.rate * scale
        for shape, group in self.groups.items():
            grad = torch.stack([w.grad if w.grad is not None else torch.zeros_like(w) for w in group])
            velocity = self.state[shape].lerp_(grad, 1 - self.momentum)
            update = orthogonal(grad.lerp(velocity, self.momentum)) * max(1.0, shape[0] / shape[1]) ** 0.5
            for weight, change in zip(group, update, strict=True):
                weight.mul_(1 - rate * self.decay).sub_(change, alpha=rate)

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for group in self.groups.values():
            for weight in group:
                weight.grad = None


def orthogonal(x: Tensor, steps: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrices to `x [stack, rows, columns]`, by Newton-Schulz iteration."""
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.mT if tall else x
