"""Keys and values that were kept of an old turn, brought back between sinks and window, beside reading the turn again.

    python bench/engine/kv_recall.py MODEL [--questions 40] [--window 508] [--ages 1.5,4]

MODEL is a folder or a GGUF file. Something is told, chat fills windows, and it is asked for in three ways: from a cache
that has lost it; with the turn read again before the question; with its keys and values, copied when it was told, laid
into reserved rows behind the sinks, each key turned from the position where it was told to its place there
(ReKV, arXiv 2503.00540; ArkVale, NeurIPS 2024); besides, right after it was told. All have as many rows. Which turn
is brought back is given: what is compared is how, not the search.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer

from bench.engine.exported import exported_engine
from builder_service.checkpoint.opened import open_path
from builder_service.families.registry import read_rope
from builder_service.model.weight_format import WeightFormat
from common.engine.engine import Feed, SlotState
from common.spec.model_spec import Precision
from common.window import Geometry, SessionWindow, chunks
from sinkserve.evaluation.recall.material import THINGS, Exchange, chat, value
from sinkserve.evaluation.recall.teller import says

SINKS, RESERVED, CHUNK, LONGEST_REPLY, SLOT = 4, 64, 64, 24, 0
BEFORE = 100  # tokens of chat before something is told
WAYS = ("in view", "forgotten", "read again", "keys and values")
FORMS = {  # the opening, a message, how a reply begins, and its end
    "<|im_start|>": (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n",
        "<|im_start|>{role}\n{text}<|im_end|>\n",
        "<|im_start|>assistant\n",
        "<|im_end|>",
    ),
    "<|user|>": ("<|begin|>", "<|{role}|>{text}<|end|>", "<|assistant|>", "<|end|>"),
}
Array = npt.NDArray[np.float32]


@dataclass
class Ways:
    """Of each way how many replies were right, and the milliseconds until the question could be read."""

    right: dict[str, int] = field(default_factory=dict)
    spent_ms: dict[str, list[float]] = field(default_factory=dict)
    tokens: list[int] = field(default_factory=list)
    kept_bytes: list[int] = field(default_factory=list)

    def note(self, way: str, spent_s: float, *, right: bool) -> None:
        """A question was answered."""
        self.right[way] = self.right.get(way, 0) + right
        self.spent_ms.setdefault(way, []).append(1000 * spent_s)


class Talk:
    """A model and one session of it after another, in a slot; the caller keeps the position."""

    def __init__(self, model: Path, window: int, threads: int, out: Path) -> None:
        geometry = Geometry(SINKS + RESERVED, window, CHUNK, 2)
        self.engine, read = exported_engine(model, geometry, WeightFormat(Precision.FP32), out, threads)
        described = open_path(model).tokenizer
        assert described is not None, "the model has no tokenizer"
        self.tokenizer: Tokenizer = described.library
        self._opening, self._form, self._answer, end = next(
            form for sign, form in FORMS.items() if self.tokenizer.token_to_id(sign) is not None
        )
        self.end = self.tokenizer.token_to_id(end)
        self.frequencies = np.array(read_rope(read, geometry).inverse_frequencies, np.float32).astype(np.float64)
        self.geometry = geometry

    def tokens(self, said: Exchange | str) -> list[int]:
        """An exchange as the model is told it; a text alone is asked, and the reply begun."""
        if isinstance(said, str):
            text = self._form.format(role="user", text=said) + self._answer
        else:
            parts = (("user", said.user), ("assistant", said.assistant))
            text = "".join(self._form.format(role=role, text=text) for role, text in parts)
        return self._encoded(text)

    def opening(self) -> list[int]:
        """What every session begins with."""
        return self._encoded(self._opening)

    def _encoded(self, text: str) -> list[int]:
        found: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return found

    def chat(self, draw: random.Random, size: int) -> list[int]:
        """So many tokens of chat."""
        found: list[int] = []
        while len(found) < size:
            found += self.tokens(chat(draw))
        return found[-size:]

    def feed(self, tokens: Sequence[int], position: int, window: SessionWindow) -> int:
        """Feed tokens; returns the token that the model would say then."""
        for size in chunks(self.geometry, window.sinks, position, len(tokens)):
            (logits,) = self.engine.step((Feed(SLOT, position, window, tuple(tokens[:size])),))
            tokens, position = tokens[size:], position + size
        return int(np.argmax(logits))

    def reply(self, asked: str, position: int, window: SessionWindow) -> str:
        """What the model answers, each time its best token."""
        tokens, said = self.tokens(asked), list[int]()
        token = self.feed(tokens, position, window)
        position += len(tokens)
        while token != self.end and len(said) < LONGEST_REPLY:
            said.append(token)
            token = self.feed([token], position, window)
            position += 1
        text: str = self.tokenizer.decode(said)
        return text


def read_kept(path: Path, state: SlotState, start: int, frequencies: npt.NDArray[np.float64]) -> tuple[Array, Array]:
    """Keys and values of a turn that was told at position `start`, keys turned to places behind the sinks.

    Both [layer, kv_head, row, dim]. A key is turned by halves, as in Hugging Face's `rotate_half`.
    """
    layers, heads, _, dim = state.keys.shape
    keys, values = np.fromfile(path, np.float32).reshape(2, layers, heads, -1, dim)
    angle = (SINKS - start) * frequencies
    cos, sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
    first, second = np.split(keys, 2, axis=-1)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1), values


def with_rows(state: SlotState, keys: Array, values: Array) -> SlotState:
    """A state with as many rows, some of them what was brought back: as sinks behind the sinks."""
    tokens = keys.shape[2]
    window = SessionWindow(SINKS + tokens, state.window.window - tokens)
    parts = ((state.keys, keys), (state.values, values))
    mixed = [
        np.concatenate([held[:, :, :SINKS], brought, held[:, :, SINKS + tokens :]], axis=2) for held, brought in parts
    ]
    return SlotState(state.position, window, state.geometry, *mixed)


def ask(talk: Talk, index: int, age: float, ways: Ways, kept: Path) -> None:
    """Tell one thing, chat, and ask for it in every way."""
    draw, window = random.Random(index), SessionWindow(SINKS, talk.geometry.window)
    thing = THINGS[index % len(THINGS)]
    said = value(draw, thing.kind_of_value, set())
    told = talk.tokens(thing.told(said))
    before, after = (talk.chat(draw, size) for size in (BEFORE, round(age * window.window)))
    before = [*talk.opening(), *before]
    start = len(before)

    def answer(way: str, spent_s: float, position: int, seen: SessionWindow = window) -> None:
        ways.note(way, spent_s, right=says(talk.reply(thing.ask, position, seen), said))

    talk.engine.clear(SLOT)
    talk.feed([*before, *told], 0, window)
    state = talk.engine.export_slot(SLOT, position := start + len(told), window)
    np.stack([state.keys[:, :, -len(told) :], state.values[:, :, -len(told) :]]).tofile(kept)
    answer("in view", 0.0, position)

    talk.engine.import_slot(SLOT, state)
    talk.feed(after, position, window)
    state = talk.engine.export_slot(SLOT, position := position + len(after), window)
    answer("forgotten", 0.0, position)

    talk.engine.import_slot(SLOT, state)
    began = time.perf_counter()
    talk.feed(told, position, window)
    answer("read again", time.perf_counter() - began, position + len(told))

    began = time.perf_counter()
    brought = with_rows(state, *read_kept(kept, state, start, talk.frequencies))
    talk.engine.import_slot(SLOT, brought)
    answer("keys and values", time.perf_counter() - began, position, brought.window)
    ways.tokens.append(len(told))
    ways.kept_bytes.append(kept.stat().st_size)


def main() -> None:
    arguments, progress = parse(), Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="sinkserve-kv-recall-") as scratch:
        talk = Talk(arguments.model, arguments.window, arguments.threads, Path(scratch) / "engine")
        table = Table("told windows ago", *WAYS, "tokens", "bytes kept", "ms read again", "ms keys and values")
        for age in arguments.ages:
            ways = Ways()
            for index in range(arguments.questions):
                ask(talk, index, age, ways, Path(scratch) / "kept")
                progress.print(f"{age:g} windows ago, of {index + 1} questions right: {ways.right}")
            shares = [f"{ways.right[way]} of {arguments.questions}" for way in WAYS]
            sizes = [f"{median(each):,.0f}" for each in (ways.tokens, ways.kept_bytes)]
            table.add_row(f"{age:g}", *shares, *sizes, *(f"{median(ways.spent_ms[way]):.1f}" for way in WAYS[2:]))
    Console().print(table)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, metavar="MODEL")
    parser.add_argument("--questions", type=int, default=40)
    parser.add_argument("--window", type=int, default=508)
    parser.add_argument(
        "--ages", type=float, nargs="+", default=[1.5, 4.0], help="Windows of chat before the question."
    )
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
