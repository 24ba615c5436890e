"""Tokens a second with and without speculation by prompt lookup, on text that repeats itself and text that does not.

    python bench/engine/speculation.py [--checkpoint FOLDER] [--precision int8] [--tokens 100]

One engine and its scheduler, without services. Two sessions say the same, one with drafts and one without, turn by turn
each after the other, so that what else the machine does meets both. "alike" is the share of turns whose tokens are the
same in both: all, but where two logits are so close that a step of several rows, which sums in another order, prefers
the other one.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

from tokenizers import Tokenizer

from bench.engine.exported import exported_engine
from builder_service.model.weight_format import WeightFormat
from common.engine.engine import Feed
from common.engine.onnxruntime_engine import OnnxRuntimeEngine
from common.spec.model_spec import Precision
from common.window import Geometry, SessionWindow
from runtime_service.decoding.reply import Reply
from runtime_service.decoding.text import Text
from runtime_service.decoding.token_history import TokenHistory
from runtime_service.domain.options import MOST_SPECULATED, GenerationOptions
from runtime_service.scheduling.limits import Limits
from runtime_service.scheduling.running_turn import Outcome, Work
from runtime_service.scheduling.scheduler import Scheduler
from runtime_service.scheduling.scheduler_events import Listener, SchedulerEvent
from runtime_service.scheduling.slots import Tenant
from tests.samples.whole_manifests import make_manifest

DEMO = Path(__file__).resolve().parents[2] / "demo"
BEGIN, END = "<|begin|>", "<|end|>"
REPLIES = 10
Prompts = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Kind:
    """What is said: prompts, and how their replies are generated."""

    name: str
    prompts: Prompts
    options: GenerationOptions
    ends: frozenset[int] = frozenset()


@dataclass
class Side:
    """One of the two sessions, and what it took."""

    tenant: Tenant
    seconds: float = 0.0
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Generated tokens a second."""
        return sum(outcome.usage.generated_tokens for outcome in self.outcomes) / self.seconds


def main() -> None:
    arguments = parse()
    geometry = Geometry(4, arguments.window, 64, 2)
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(arguments.engine or scratch)
        weight_format = WeightFormat(Precision(arguments.precision))
        engine, model = exported_engine(arguments.checkpoint, geometry, weight_format, out, arguments.threads)
        kinds = kinds_of(arguments, engine.vocabulary_size)
        if arguments.json:
            sides = ((kind.name, measure(engine, model.architecture.layers, kind, arguments.most)) for kind in kinds)
            print(json.dumps({name: drafting.rate / without.rate for name, (without, drafting) in sides}))
            return
        print(f"{arguments.checkpoint}, {arguments.precision}, window {arguments.window}, drafts of {arguments.most}\n")
        print("| what is said | tokens/s without | with | ratio | tokens a step | drafted right | alike |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
        for kind in kinds:
            show(kind, *measure(engine, model.architecture.layers, kind, arguments.most))
        print("\n| tokens in a step, logits after each | 1 | 2 | 4 | 8 | 16 |\n| --- | --- | --- | --- | --- | --- |")
        times = step_times(engine, arguments.steps)
        print("| ms, medians by turns |", " | ".join(f"{1e3 * seconds:.2f}" for seconds in times), "|")
        print("| of one token's |", " | ".join(f"{seconds / times[0]:.2f}" for seconds in times), "|")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=DEMO / "model")
    parser.add_argument("--engine", help="folder of an exported graph, made if it is empty")
    parser.add_argument("--precision", default="int8", choices=[str(precision) for precision in Precision])
    parser.add_argument("--window", type=int, default=252)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--turns", type=int, default=100, help="of the demo's dialogues")
    parser.add_argument("--tokens", type=int, default=100, help="of a reply that goes on")
    parser.add_argument("--steps", type=int, default=20, help="of each kind, timed")
    parser.add_argument("--most", type=int, default=MOST_SPECULATED, help="tokens of a draft")
    parser.add_argument("--json", action="store_true", help="the ratios alone, by what is said")
    return parser.parse_args()


def kinds_of(arguments: argparse.Namespace, vocabulary: int) -> list[Kind]:
    """Dialogues of the demo model; of any other, what needs no words."""
    greedy = GenerationOptions(max_new_tokens=arguments.tokens, temperature=0.0)
    if arguments.checkpoint != DEMO / "model":
        return _endless([range(5, 21)] * REPLIES, greedy)
    tokenizer = Tokenizer.from_file(str(arguments.checkpoint / "tokenizer.json"))
    said = re.findall(r"<\|user\|>.*?<\|end\|>", (DEMO / "transcript.txt").read_text())[: arguments.turns]
    said[0] = f"{BEGIN}{said[0]}"
    prompts = [tokenizer.encode(f"{each}<|assistant|>", add_special_tokens=False).ids for each in said]
    ends, short = frozenset(tokenizer.encode(END, add_special_tokens=False).ids), replace(greedy, max_new_tokens=60)
    assert vocabulary == tokenizer.get_vocab_size()
    return [
        Kind("dialogues, greedy", prompts, short, ends),
        Kind("dialogues at temperature 1", prompts, replace(short, temperature=1.0, seed=1), ends),
        Kind("eight questions again and again", prompts[:8] * (arguments.turns // 8), short, ends),
        *_endless(prompts[:REPLIES], greedy),
    ]


def _endless(prompts: Prompts, greedy: GenerationOptions) -> list[Kind]:
    """Replies that go on past their end, and so may soon repeat themselves; and at random, where they do less."""
    return [
        Kind("replies that go on, greedy", prompts, greedy),
        Kind("the same at temperature 1", prompts, replace(greedy, temperature=1.0, seed=1)),
    ]


def measure(engine: OnnxRuntimeEngine, layers: int, kind: Kind, most: int) -> tuple[Side, Side]:
    """Without drafts, and with."""
    window = SessionWindow(engine.geometry.sinks, engine.geometry.window)
    scheduler = Scheduler(engine, Limits(layers, 1 << 20, 0, 1.0), time.monotonic, _tell)
    sides = (Side(Tenant("without", TokenHistory(window))), Side(Tenant("with", TokenHistory(window))))
    text = Text(None, make_manifest(engine.geometry))
    for number, prompt in enumerate(kind.prompts):
        for side, drafts in zip(sides, (0, most), strict=True):
            options = replace(kind.options, speculated_tokens=drafts)
            work = Work(str(number), tuple(prompt), options, 0.0, Reply(text, options, kind.ends))
            began = time.perf_counter()
            scheduler.submit(side.tenant, work, _listener(side))
            while scheduler.step():
                pass
            side.seconds += time.perf_counter() - began
    for side in sides:
        scheduler.release_tenant(side.tenant, keep=False)
    return sides


def step_times(engine: OnnxRuntimeEngine, count: int) -> list[float]:
    """Seconds of a step that checks a draft, by its tokens; each step is taken back, in a window that is full."""
    geometry = engine.geometry
    window = SessionWindow(geometry.sinks, geometry.window)
    position = geometry.sinks + geometry.ring  # the ring's first row
    feeds = [Feed(0, position, window, tuple(range(5, 5 + size)), size) for size in (1, 2, 4, 8, 16)]
    taken: list[list[float]] = [[] for _ in feeds]
    for _ in range(count):
        for feed, times in zip(feeds, taken, strict=True):
            began = time.perf_counter()
            engine.step((feed,))
            times.append(time.perf_counter() - began)
    return [median(times) for times in taken]


def _tell(listener: Listener, event: SchedulerEvent) -> None:
    listener(event)


def _listener(side: Side) -> Listener:
    def hear(event: SchedulerEvent) -> None:
        if isinstance(event, Outcome):
            side.outcomes.append(event)

    return hear


def show(kind: Kind, without: Side, drafting: Side) -> None:
    """One line of the table."""
    usages = [outcome.usage for outcome in drafting.outcomes]
    generated, drafted, right = (
        sum(getattr(usage, name) for usage in usages)
        for name in ("generated_tokens", "drafted_tokens", "accepted_tokens")
    )
    alike = sum(
        one.tokens == other.tokens for one, other in zip(without.outcomes, drafting.outcomes, strict=True)
    ) / len(usages)
    share = f"{right:,} of {drafted:,}" if drafted else "none"
    print(
        f"| {kind.name} | {without.rate:,.0f} | {drafting.rate:,.0f} | {drafting.rate / without.rate:.2f} "
        f"| {generated / (generated - right):.2f} | {share} | {alike:.0%} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
