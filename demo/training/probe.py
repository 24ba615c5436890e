"""How well a network answers: exact replies by kind and distance, with names that training never showed."""

import random
from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

from demo.training.network import Network
from demo.training.samples import Encoder, Piece, sample, tensors

Scores = dict[tuple[str, int], list[bool]]


@torch.no_grad()
def answers(network: Network, pieces: list[Piece]) -> Scores:
    """Whether every token of each reply is the most likely one (then a greedy reply is exact), by kind and distance."""
    ids, _ = tensors(pieces)
    right = network(ids[:, :-1])[0].argmax(-1) == ids[:, 1:]
    scores: Scores = defaultdict(list)
    for row, piece in zip(right, pieces, strict=True):
        for start, end, turn in piece.replies:
            scores[turn.kind, turn.recall_distance or 0].append(exact(row, start, end))
    return scores


def exact(right: Tensor, start: int, end: int) -> bool:
    """Whether tokens `start` to `end` were all predicted, given `right[i]` for token `i + 1`."""
    return bool(right[start - 1 : end - 1].all())


def probe(network: Network, encoder: Encoder, seed: int, count: int, length: int = 257) -> Scores:
    """`answers` over `count` fresh samples."""
    rng = random.Random(seed)
    return answers(network, [sample(encoder, rng, length, held_out=True) for _ in range(count)])


def share(scores: Scores, kinds: Iterable[str], low: int = 0, high: int = 999) -> float:
    """The share of right replies of some kinds with a distance from `low` to `high`."""
    hits = [hit for (kind, at), all_hits in scores.items() if kind in kinds and low <= at <= high for hit in all_hits]
    return sum(hits) / max(len(hits), 1)


def summary(scores: Scores) -> str:
    """One line: recall and line codes, near and far, then the rest."""
    spans = ((1, 3), (4, 8), (9, 99))
    parts = [
        f"{kind} " + "/".join(f"{share(scores, [kind], *span):.2f}" for span in spans) for kind in ("recall", "code")
    ]
    rest = ("untold", "unseen", "sum", "fact", "tell", "echo", "talk", "aside")
    return " ".join([*parts, *(f"{kind} {share(scores, [kind]):.2f}" for kind in rest)])
