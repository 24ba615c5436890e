"""The model card's tables, on dialogues that training never saw: `python demo/training/evaluate.py`."""

import argparse
import json
import math
import random
from collections import defaultdict
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

from demo.dialogues import Talker, code_of, line, start_lines
from demo.training.network import Network, Shape
from demo.training.probe import exact, probe, share
from demo.training.samples import Encoder, Piece, sample, tensors
from demo.training.stream import Cache, predict

TOTAL = 256
SETTINGS = {"dense (everything kept)": Cache(0, 10**9), "window alone, 0+256": Cache(0, 256),
            **{f"{n} sink{'s' * (n > 1)}, {n}+{TOTAL - n}": Cache(n, TOTAL - n) for n in (1, 2, 4, 8)}}  # fmt: skip
FOUR = Cache(4, 252)
FARTHEST = 8  # lines back that, with the questions between, still fit the window


def load(folder: Path) -> tuple[Network, Encoder]:
    """The network and its tokenizer from a Hugging Face folder."""
    config = json.loads((folder / "config.json").read_text())
    network = Network(Shape(
        config["vocab_size"], config["hidden_size"], config["num_hidden_layers"], config["num_attention_heads"],
        config["num_key_value_heads"], config["intermediate_size"], config["max_position_embeddings"],
        config["rope_theta"], config["rms_norm_eps"],
    ))  # fmt: skip
    network.load_state_dict(load_file(folder / "model.safetensors"))
    return network, Encoder(Tokenizer.from_file(str(folder / "tokenizer.json")))


def dialogue(encoder: Encoder, seed: int, length: int) -> Piece:
    """One conversation of `length` tokens, with names held out of training."""
    rng = random.Random(f"held out {seed}")
    piece, talker = encoder.opening(rng), Talker(rng, reach=12, held_out=True)
    while len(piece.ids) < length:
        piece.add(encoder.turn(talker.next()))
    return piece.part(0, length)


def numbered_lines(encoder: Encoder, seed: int, length: int, first: int) -> tuple[Piece, list[int]]:
    """StreamEval: numbered lines without end, after every second one a question about one never asked for yet.

    Also the number of lines back that each reply asks for (0 for a reply to a line).
    """
    rng = random.Random(f"lines {seed}")
    piece, talker, back = encoder.opening(rng), Talker(rng), list[int]()
    start_lines(talker)
    talker.line = first
    while len(piece.ids) < length:
        for _ in range(2):
            piece.add(encoder.turn(line(talker)))
            back.append(0)
        number = rng.choice([n for n in talker.codes if n >= talker.line - FARTHEST])
        back.append(talker.line - number)
        piece.add(encoder.turn(code_of(talker, number)))
        del talker.codes[number]
    return piece.part(0, length), back


def perplexity(scores: Tensor) -> float:
    """Of log-probabilities."""
    return math.exp(-scores.mean().item())


def held_out_table(network: Network, encoder: Encoder) -> str:
    """Perplexity within the trained length, of all tokens and of the model's own."""
    rng = random.Random("held out")
    ids, weights = tensors([sample(encoder, rng, TOTAL + 1, held_out=True) for _ in range(200)])
    scores, _ = predict(network, ids[:, : TOTAL + 1], Cache(0, 10**9))
    own, counted = weights[:, 1:] >= 1.0, weights[:, 1:] > 0.0
    return (f"| text | perplexity a token |\n| --- | --- |\n| whole dialogues | {perplexity(scores[counted]):.2f} |\n"
            f"| the model's replies | {perplexity(scores[own]):.3f} |\n")  # fmt: skip


def stream_table(network: Network, pieces: list[Piece]) -> str:
    """Over long streams, by cache: perplexity of all, past the trained length, of replies; replies exactly right."""
    ids, weights = tensors(pieces)
    title_row = f"| cache | {ids.shape[1]} tokens | past {TOTAL} | replies past {TOTAL} | replies exact |"
    rows = [title_row, "| --- " * 5 + "|"]
    for title, cache in SETTINGS.items():
        scores, right = predict(network, ids, cache)
        own = weights[:, 1 + TOTAL :] >= 1.0
        late = scores[:, TOTAL:]
        hits = exact_replies(right, pieces)
        rows.append(f"| {title} | {perplexity(scores):.2f} | {perplexity(late):.2f} | {perplexity(late[own]):.2f} "
                    f"| {sum(hits) / len(hits):.0%} |")  # fmt: skip
    return "\n".join(rows) + "\n"


def exact_replies(right: Tensor, pieces: list[Piece]) -> list[bool]:
    """Whether each reply past the trained length was predicted whole."""
    rows = zip(right, pieces, strict=True)
    return [exact(row, start, end) for row, piece in rows for start, end, _ in piece.replies if start > TOTAL]


def recall_table(network: Network, pieces: list[Piece]) -> str:
    """Exact recall past the trained length with 4+252, by turns back, while the window still holds the value."""
    ids, _ = tensors(pieces)
    _, right = predict(network, ids, FOUR)
    found: dict[tuple[str, int], list[tuple[int, bool]]] = defaultdict(list)
    for row, piece in zip(right, pieces, strict=True):
        for at, (start, end, turn) in enumerate(piece.replies):
            if turn.recall_distance is None or start < 2 * TOTAL:
                continue
            back = start - piece.replies[at - turn.recall_distance][1]
            if back < 220:
                found[turn.kind, turn.recall_distance].append((back, exact(row, start, end)))
    rows = ["| turns back | tokens back | names and other facts | asked | line codes | asked |", "| --- " * 6 + "|"]
    return "\n".join([*rows, *(_recall_row(found, d) for d in range(1, 13))]) + "\n"


def _recall_row(found: dict[tuple[str, int], list[tuple[int, bool]]], distance: int) -> str:
    facts, codes = found[("recall", distance)], found[("code", distance)]
    tokens = sum(back for back, _ in facts + codes) / max(len(facts + codes), 1)
    cells = [f"{_share([hit for _, hit in hits])} | {len(hits)}" for hits in (facts, codes)]
    return f"| {distance} | {tokens:.0f} | {' | '.join(cells)} |"


def _share(hits: list[bool]) -> str:
    return f"{sum(hits) / len(hits):.0%}" if hits else "-"


def lines_table(network: Network, encoder: Encoder) -> str:
    """StreamEval past the trained length by lines back: lines of one number token, of two, and with no sinks."""
    low = [numbered_lines(encoder, seed, 2300, 1) for seed in range(12)]
    high = [numbered_lines(encoder, seed, 2300, 100 + 50 * seed) for seed in range(12)]
    alone = Cache(0, TOTAL)
    found = [lines_right(network, streams, cache) for streams, cache in ((low, FOUR), (high, FOUR), (low, alone))]
    rows = ["| lines back | lines 1 to 99 | lines 100 to 750 | lines 1 to 99, window alone |", "| --- " * 4 + "|"]
    cells = {back: " | ".join(_share(column[back]) for column in found) for back in range(1, FARTHEST + 1)}
    return "\n".join([*rows, *(f"| {back} | {cell} |" for back, cell in cells.items())]) + "\n"


def lines_right(network: Network, streams: list[tuple[Piece, list[int]]], cache: Cache) -> dict[int, list[bool]]:
    """Exact replies past token 512 by lines back."""
    ids, _ = tensors([piece for piece, _ in streams])
    _, right = predict(network, ids, cache)
    found: dict[int, list[bool]] = defaultdict(list)
    for row, (piece, back) in zip(right, streams, strict=True):
        for (start, end, _), distance in zip(piece.replies, back, strict=False):
            if start > 2 * TOTAL:
                found[distance].append(exact(row, start, end))
    return found


def skills_table(network: Network, encoder: Encoder) -> str:
    """Exact replies by kind of question within the trained length."""
    scores = probe(network, encoder, 7, 250, TOTAL + 1)
    kinds = (
        "recall",
        "code",
        "untold",
        "unseen",
        "sum",
        "fact",
        "talk",
        "tell",
        "tells",
        "change",
        "echo",
        "line",
        "aside",
    )
    rows = ["| kind | replies exactly right |", "| --- " * 2 + "|"]
    return "\n".join([*rows, *(f"| {kind} | {share(scores, [kind]):.1%} |" for kind in kinds)]) + "\n"


def main() -> None:
    """Print every table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path(__file__).resolve().parents[1] / "model")
    parser.add_argument("--tokens", type=int, default=8192, help="length of the long streams")
    parser.add_argument("--streams", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    network, encoder = load(args.model)
    pieces = [dialogue(encoder, seed, args.tokens) for seed in range(args.streams)]
    print("### Held out\n\n" + held_out_table(network, encoder), flush=True)
    print("### By kind\n\n" + skills_table(network, encoder), flush=True)
    print("### Streams\n\n" + stream_table(network, pieces), flush=True)
    more = pieces + [dialogue(encoder, seed, args.tokens) for seed in range(args.streams, 4 * args.streams)]
    print("### Recall\n\n" + recall_table(network, more), flush=True)
    print("### StreamEval\n\n" + lines_table(network, encoder), flush=True)


if __name__ == "__main__":
    main()
