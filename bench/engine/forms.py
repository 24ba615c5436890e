"""What a decoding step costs more where replies have a form: 8 sessions, TinyLlama's shape, 32k and 128k tokens.

    python bench/engine/forms.py [--layers 2] [--vocabularies 32000 128256] [--rounds 40] [--json]

The whole of a step is timed: the engine's, which runs the real graph with random weights, and what the scheduler does
for 8 turns. Turns without a form and turns with one take turns, on the same engine; a form costs what the medians
differ by. On a machine that others use, "host" says more: processor time of the scheduler's thread outside the engine's
step, to which a form adds the masks that were waited for. Two layers in fp32 with their head read 0.6 GB, where
TinyLlama's 22 layers in int8 read 1.0: the share of a form is larger here than there.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, cast

from rich.console import Console
from rich.table import Table

from bench.engine.exported import exported_engine
from builder_service.model.weight_format import WeightFormat
from common.engine.engine import Feed, FloatArray
from common.engine.onnxruntime_engine import OnnxRuntimeEngine
from common.spec.model_spec import Precision
from common.text.vocabulary import byte_characters
from common.window import Geometry, SessionWindow
from runtime_service.decoding.reply import Reply
from runtime_service.decoding.text import Text
from runtime_service.decoding.token_history import TokenHistory
from runtime_service.domain.options import GenerationOptions
from runtime_service.domain.response_format import ResponseFormat
from runtime_service.forms.engine_forms import EngineForms
from runtime_service.forms.form import form_of
from runtime_service.forms.matcher import Matcher
from runtime_service.scheduling.limits import Limits
from runtime_service.scheduling.running_turn import Work
from runtime_service.scheduling.scheduler import Scheduler
from runtime_service.scheduling.slots import Tenant
from tests.samples.checkpoints import write_checkpoint
from tests.samples.whole_manifests import make_manifest

SESSIONS = 8
GEOMETRY = Geometry(sinks=4, window=508, chunk=16, slots=SESSIONS)
WARM_UP = 4
GOAL = 1.03
_ITEM = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}, "kind": {"enum": ["cat", "dog"]}},
    "required": ["name", "age", "kind"],
    "additionalProperties": False,
}
FORMS: Mapping[str, ResponseFormat | None] = {
    "none": None,
    "JSON": ResponseFormat(json_schema=json.dumps({"type": "array", "items": _ITEM, "minItems": 1000})),
    "any text": ResponseFormat(regex="(.|\n)*"),
}
OPTIONS = {
    "greedy": GenerationOptions(max_new_tokens=1 << 20),
    "sampled": GenerationOptions(max_new_tokens=1 << 20, temperature=1.0, top_p=0.95, seed=7),
}


@dataclass(frozen=True)
class Row:
    """`ratio` is to the step without a form, in the same run; `mask_ms` is found beside the engine, for 8 replies."""

    vocabulary: int
    sampling: str
    form: str
    step_ms: float
    ratio: float
    host_ms: float
    mask_ms: float
    waited_ms: float


def main() -> None:
    arguments = parse()
    with tempfile.TemporaryDirectory(prefix="sinkserve-forms-") as scratch:
        rows = [
            row
            for size in arguments.vocabularies
            for row in measure(size, arguments.layers, arguments.rounds, Path(scratch) / str(size))
        ]
    if arguments.json:
        sys.stdout.write(json.dumps([asdict(row) for row in rows]) + "\n")
        return
    table = Table("vocabulary", "sampling", "form", "step, ms", "ratio", "host, ms", "masks, ms", "waited, ms")
    for row in rows:
        figures = (
            f"{row.step_ms:.2f}",
            f"{row.ratio:.3f}",
            f"{row.host_ms:.2f}",
            f"{row.mask_ms:.2f}",
            f"{row.waited_ms:.3f}",
        )
        table.add_row(f"{row.vocabulary:,}", row.sampling, row.form, *figures)
    Console().print(table, f"goal: a ratio of at most {GOAL}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--vocabularies", type=int, nargs="+", default=[32_000, 128_256])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def measure(size: int, layers: int, rounds: int, folder: Path) -> list[Row]:
    manifest = make_manifest(GEOMETRY, vocabulary=size)  # without an end, no turn has one
    text = Text(json.dumps(tokenizer_of(size)).encode(), manifest)
    engine = engine_of(size, layers, folder)
    rows = []
    for name, options in OPTIONS.items():
        crowds = {
            form: Crowd(engine, text, EngineForms(text.vocabulary, manifest), asked, options)
            for form, asked in FORMS.items()
        }
        times = by_turns(crowds, rounds)
        for form, crowd in crowds.items():
            masks = crowd.scheduler.masks
            steps = max(1, masks.steps)
            found, waited = 1e3 * masks.seconds / steps, 1e3 * masks.waited_s / steps
            step, host = times[form]
            rows.append(Row(size, name, form, step, step / times["none"][0], host, found, waited))
    return rows


def engine_of(size: int, layers: int, folder: Path) -> Watched:
    """Layers of TinyLlama-1.1B's shape."""
    checkpoint = write_checkpoint(
        folder / "model",
        hidden=2048,
        intermediate=5632,
        layers=layers,
        heads=32,
        kv_heads=4,
        vocab=size,
        max_position=4096,
        tokenizer=False,
    )
    engine = exported_engine(checkpoint, GEOMETRY, WeightFormat(Precision.FP32), folder / "engine", 0)[0]
    engine.__class__ = Watched
    return cast("Watched", engine)


def tokenizer_of(size: int) -> dict[str, Any]:
    """A byte-level vocabulary of single bytes and of words by chance, as a parsed tokenizer.json."""
    chance, pieces = random.Random(1), dict.fromkeys(byte_characters())
    while len(pieces) < size - 1:
        word = "".join(chance.choices("etaoinshrdlucmfwypvbgkjqxz", k=chance.randint(2, 9)))
        pieces |= dict.fromkeys((word, f"Ġ{word}", word.capitalize()))
    vocabulary = {piece: token for token, piece in enumerate(list(pieces)[: size - 1])}
    added = [{"id": size - 1, "content": "<end>", "special": True}]
    return {"added_tokens": added, "model": {"vocab": vocabulary}, "decoder": {"type": "ByteLevel"}}


class Watched(OnnxRuntimeEngine):
    """An engine that knows what its steps took of the thread that asked for them."""

    seconds = 0.0

    def step(self, feeds: tuple[Feed, ...]) -> FloatArray:
        start = time.thread_time()
        logits = super().step(feeds)
        self.seconds += time.thread_time() - start
        return logits


class Crowd:
    """Eight turns that go on for ever, in a scheduler of their own over an engine that others have too."""

    def __init__(
        self,
        engine: Watched,
        text: Text,
        forms: EngineForms,
        asked: ResponseFormat | None,
        options: GenerationOptions,
    ) -> None:
        self.engine = engine
        limits = Limits(layers=1, max_replay_tokens=1 << 20, parked_bytes=0, stall_s=0.1)
        self.scheduler = Scheduler(engine, limits, time.monotonic, lambda *_: None)
        options = replace(options, response_format=asked)
        for number, matcher in enumerate(asyncio.run(matchers_of(forms, asked))):
            history = TokenHistory(SessionWindow(GEOMETRY.sinks, GEOMETRY.window), ())
            reply = Reply(text, options, ())
            prompt = tuple(range(number, number + GEOMETRY.chunk))
            work = Work(str(number), prompt, replace(options, seed=number), 0.0, reply, matcher=matcher)
            self.scheduler.submit(Tenant(str(number), history), work, lambda _: None)
        while not self.decodes:
            self.scheduler.step()

    @property
    def decodes(self) -> bool:
        """Whether every turn has said something."""
        running = self.scheduler._running  # noqa: SLF001 - there is no other way to see it
        return len(running) == SESSIONS and all(tenant.running.left < 1 << 20 for tenant in running)


async def matchers_of(forms: EngineForms, asked: ResponseFormat | None) -> list[Matcher | None]:
    return [None if asked is None else await forms.matcher(form_of(asked)) for _ in range(SESSIONS)]


def by_turns(crowds: Mapping[str, Crowd], rounds: int) -> dict[str, tuple[float, float]]:
    """Median milliseconds of a step of each, and those of the host, all by turns."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in crowds}
    for number in range(rounds + WARM_UP):
        for name, crowd in crowds.items():
            start, host, engine = time.perf_counter(), time.thread_time(), crowd.engine.seconds
            crowd.scheduler.step()
            host = time.thread_time() - host - (crowd.engine.seconds - engine)
            if number >= WARM_UP:
                times[name].append((1e3 * (time.perf_counter() - start), 1e3 * host))
    return {name: (median(step for step, _ in its), median(host for _, host in its)) for name, its in times.items()}


if __name__ == "__main__":
    main()
