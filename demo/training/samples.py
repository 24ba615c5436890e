"""Training samples: token ids with loss weights, in the shapes that a sink-and-window cache shows to a model."""

import random
from dataclasses import dataclass, field

import torch
from tokenizers import Tokenizer
from torch import Tensor

from demo import words
from demo.dialogues import Talker, Turn, start_lines
from demo.training.vocabulary import ASSISTANT, BEGIN, END, SYSTEM, USER

USER_WEIGHT, REPLY_WEIGHT, VALUE_WEIGHT = 0.15, 1.0, 6.0
KIND_WEIGHTS = {"recall": 2.0, "code": 2.0, "untold": 2.0, "unseen": 2.0, "sum": 1.5, "fact": 2.0}
REACH = 12
HEADS = (4, 4, 4, 4, 4, 1, 2, 8)


@dataclass
class Piece:
    """Token ids, the weight of predicting each, and where the replies lie: `(start, end, turn)`."""

    ids: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    replies: list[tuple[int, int, Turn]] = field(default_factory=list)

    def add(self, other: "Piece") -> "Piece":
        """Append another piece, in place."""
        base = len(self.ids)
        self.ids += other.ids
        self.weights += other.weights
        self.replies += [(base + start, base + end, turn) for start, end, turn in other.replies]
        return self

    def part(self, start: int, end: int) -> "Piece":
        """Tokens `start` to `end`; the first is never predicted; replies that are cut are dropped."""
        whole = [(a - start, b - start, t) for a, b, t in self.replies if a > start and b <= end]
        return Piece(self.ids[start:end], [0.0, *self.weights[start + 1 : end]], whole)


class Encoder:
    """Turns into tokens, as the chat template renders them."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        tokenizer.encode_special_tokens = True
        vocabulary: dict[str, int] = tokenizer.get_vocab(with_added_tokens=True)
        self.control = {name: vocabulary[name] for name in (BEGIN, END, SYSTEM, USER, ASSISTANT)}

    def text(self, text: str) -> list[int]:
        """Plain text; control tokens written in it stay plain text."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def message(self, role: str, text: str, weight: float) -> Piece:
        """One message: role marker, text, end marker. The marker of a role is the user's business."""
        ids = [self.control[role], *self.text(text), self.control[END]]
        return Piece(ids, [min(weight, USER_WEIGHT), *[weight] * (len(ids) - 1)])

    def turn(self, turn: Turn) -> Piece:
        """A whole turn, its reply weighing more than its question."""
        weight = KIND_WEIGHTS.get(turn.kind, REPLY_WEIGHT)
        piece = self.message(USER, turn.user, USER_WEIGHT)
        start = len(piece.ids) + 1
        piece.add(self.message(ASSISTANT, turn.assistant, weight))
        self._weigh_values(piece, start, turn)
        piece.replies.append((start, len(piece.ids), turn))
        return piece

    def _weigh_values(self, piece: Piece, start: int, turn: Turn) -> None:
        """Raise the weight of each recalled value; a reply has a sentence for each."""
        sentences = turn.assistant.removesuffix(".").split(". ") if turn.values else []
        for lead, value, sentence in zip(["", *" " * 9], turn.values, sentences, strict=False):
            before = start + len(self.text(lead + sentence[: sentence.rindex(f" {value}")]))
            after = before + len(self.text(f" {value}"))
            piece.weights[before:after] = [VALUE_WEIGHT] * (after - before)
            start += len(self.text(lead + sentence + "."))

    def opening(self, rng: random.Random) -> Piece:
        """The begin token and, sometimes, a system message."""
        begin = Piece([self.control[BEGIN]], [0.0])
        return begin.add(self.message(SYSTEM, rng.choice(words.SYSTEM), 0.0)) if rng.random() < 0.1 else begin


def sample(encoder: Encoder, rng: random.Random, length: int, drill: float = 0.0, held_out: bool = False) -> Piece:
    """`length` tokens: a conversation from its start, or its first tokens and a later slice that begins mid-turn.

    `drill` is the share of samples that are nothing but things told and asked for.
    """
    talker = Talker(rng, rng.randint(2, REACH), held_out, drill=rng.random() < drill)
    if rng.random() < 0.3:
        start_lines(talker, 20 if talker.drill else None)
    piece = encoder.opening(rng) if rng.random() < 0.35 else _evicted(encoder, rng, talker)
    while len(piece.ids) < length:
        piece.add(encoder.turn(talker.next()))
    return piece.part(0, length)


def _evicted(encoder: Encoder, rng: random.Random, talker: Talker) -> Piece:
    """What is left of a long conversation: some first tokens, then the rest of a turn whose facts nobody asks for."""
    first = encoder.opening(rng).add(encoder.turn(Talker(rng).next()))
    cut = encoder.turn(talker.next())
    talker.vague |= set(talker.told)
    talker.told.clear()
    talker.codes.clear()
    head = first.part(0, rng.choice(HEADS))
    return Piece(head.ids, [0.0] * len(head.ids)).add(cut.part(rng.randrange(len(cut.ids)), len(cut.ids)))


def tensors(pieces: list[Piece]) -> tuple[Tensor, Tensor]:
    """Ids and weights of equally long pieces, each `[batch, length]`."""
    return torch.tensor([p.ids for p in pieces]), torch.tensor([p.weights for p in pieces])
