"""What SinkServe is held to: the sections of the page, how each is measured, and the goal of each figure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

from pydantic import TypeAdapter

from bench.peers.readings import Reading, compare

SHAPE = "tinyllama-1.1b"
GOALS = {
    "smollm-135m": {"prefill 256": 1.0, "decode 1": 1.2, "decode 8": 1.3, "decode 32": 1.3},
    SHAPE: {"prefill 256": 1.0, "decode 1": 1.5, "decode 8": 2.0, "decode 32": 1.8},
}
"""By shape, of our best engine to the best of all peers."""
WIDE = "ours int8"  # keys and values in float32
OURS = (
    WIDE,
    "ours int8, keys and values too",
    "ours int4, blocks of 128",
    "ours int4, blocks of 128, keys and values int8",
)
PEERS = (
    "llama.cpp Q4_0",
    "llama.cpp Q8_0",
    "OpenVINO GenAI int8",
    "OpenVINO GenAI int4",
    "PyTorch StreamingLLM bf16",
)
CHOSEN = tuple(word for name in (*OURS, *PEERS) for word in ("--peer", name))
"""Those that goals name; all that take part would not fit the memory of a small machine at once."""


@dataclass(frozen=True)
class Figure:
    """One line of the page. `goal` None: stated, and held to nothing."""

    section: str
    name: str
    value: float
    goal: float | None = None
    at_least: bool = True
    unit: str = ""

    @property
    def met(self) -> bool:
        """Whether the goal is reached; so is none."""
        return self.goal is None or (self.value >= self.goal if self.at_least else self.value <= self.goal)

    @property
    def row(self) -> tuple[str, str, str, str]:
        """Name, result, goal, and whether it is met."""
        result = _with_unit(self.value, self.unit)
        if self.goal is None:
            return self.name, result, "", ""
        wanted = f"at {'least' if self.at_least else 'most'} {_with_unit(self.goal, self.unit)}"
        return self.name, result, wanted, "met" if self.met else "not met"


def _with_unit(value: float, unit: str) -> str:
    if unit == "%":
        return f"{100 * value:.0f} %"
    digits = f"{value:,.0f}" if value >= 1000 else f"{value:.3f}".rstrip("0").rstrip(".")
    return f"{digits} {unit}".rstrip()


@dataclass(frozen=True)
class Section:
    """A script, and the figures that its JSON says. `{folder}`, `{out}` and `{bin}` in its words are filled in."""

    name: str
    command: tuple[str, ...]
    figures: Callable[[Any], Iterator[Figure]]
    shape: str = ""
    """A checkpoint of this shape has to be in the folder."""
    needs: str = ""
    remedy: str = ""

    def read(self, document: Any) -> list[Figure]:  # noqa: ANN401 - JSON
        """The figures of what the script said."""
        return list(self.figures(document))


def _window(document: Any) -> Iterator[Figure]:  # noqa: ANN401 - JSON, here and below
    ratio = document["old_ms"] / document["young_ms"]
    yield Figure("window", "a turn far past the window, to one at position 2,000", ratio, 1.05, at_least=False)
    first, last = document["blocks"][1], document["blocks"][-1]
    grown = last["memory_mib"] / first["memory_mib"]
    yield Figure("window", "memory at the end, to that after the first block", grown, 1.05, at_least=False)


def _perplexity(document: Any) -> Iterator[Figure]:  # noqa: ANN401
    rows = document["rows"]
    four = [row["to_recomputation"] for row in rows if row["mode"].startswith("sinks 4+")]
    yield Figure("ppl", "4 sinks, to recomputation", max(four), 1.01, at_least=False)
    for kind, name in (("dense", "dense, past the trained length"), ("window", "window without sinks")):
        worst = min(row["to_recomputation"] for row in rows if row["kind"] == kind)
        yield Figure("ppl", f"{name}, to recomputation", worst, 1.5)


def _streameval(document: Any) -> Iterator[Figure]:  # noqa: ANN401
    for column in document["columns"]:
        name, sinks = column["name"], not column["name"].startswith("0+")
        yield Figure(
            "streameval", f"right inside a cache of {name}", column["inside"]["share"], 0.9 if sinks else None, unit="%"
        )
        yield Figure("streameval", f"right beyond it, {name}", column["beyond"]["share"], 0.0, at_least=False, unit="%")


def _recomputation(document: Any) -> Iterator[Figure]:  # noqa: ANN401
    for row in document["rows"]:
        name = f"a token by recomputation, to one in a window of {row['cache_tokens']}"
        yield Figure("recomputation", name, row["ratio"], 22.2 if row["cache_tokens"] == 4096 else None)


def _constant_kv(document: Any) -> Iterator[Figure]:  # noqa: ANN401
    worst = max(row["ratio"] for row in document["rows"])
    yield Figure("constant-kv", "attention at 65,536 rows, worst shape to 64 sessions", worst, 1.15, at_least=False)
    name = "65,536 rows of one session: one thread, to all"
    yield Figure("constant-kv", name, document["one_thread_ratio"], 1.5)


def _service(document: Any) -> Iterator[Figure]:  # noqa: ANN401
    alone, together = document
    yield Figure("service", "32 conversations", together["tokens_per_second"], 25_000, unit="tokens/s")
    yield Figure("service", "a token, one conversation", alone["token_ms"], 1.0, at_least=False, unit="ms")
    yield Figure("service", "processor", together["cpu_us_per_token"], unit="µs a token")


def _crowd(document: Any) -> Iterator[Figure]:  # noqa: ANN401
    name = "time to the first token beside a hostile crowd, to that alone"
    yield Figure("crowd", name, document["ratio"], 2.0, at_least=False)


def _startup(document: Any) -> Iterator[Figure]:  # noqa: ANN401
    yield Figure("startup", "from the command to serving", median(document), 5.0, at_least=False, unit="s")


def _builder(document: Any) -> Iterator[Figure]:  # noqa: ANN401
    yield Figure("builder", "speed of disk and memory reached, without verify", document["share"], unit="%")
    yield Figure("builder", "a build of 1.1 billion parameters", document["first"]["seconds"], unit="s")
    name = "added to the store by a second geometry"
    yield Figure("builder", name, document["second_share"], 0.01, at_least=False, unit="%")


def _speculation(document: Any) -> Iterator[Figure]:  # noqa: ANN401
    for name, ratio in document.items():
        yield Figure("speculation", f"{name}: with guesses, to without", ratio, 1.0)


def _steps(precision: str) -> Callable[[Any], Iterator[Figure]]:
    def figures(document: Any) -> Iterator[Figure]:  # noqa: ANN401
        for row in document:
            name = f"{precision}, {row['slots']} x {row['step']}: of the memory's speed"
            goal = 0.75 if (row["slots"], row["step"]) == (1, 1) else None
            if row["step"] == 1:
                yield Figure("step", name, row["limit_ms"] / row["least_ms"], goal, unit="%")

    return figures


def _peers(shape: str) -> Callable[[Any], Iterator[Figure]]:
    def figures(document: Any) -> Iterator[Figure]:  # noqa: ANN401
        readings = TypeAdapter(list[Reading]).validate_python(document["readings"])
        of = [reading for reading in readings if reading.shape == shape and reading.values]
        for measure, goal in GOALS[shape].items():
            yield from _ratio(of, measure, PEERS, goal)
        if shape == SHAPE:
            yield from _older(of)
        yield from _memory(of, shape)

    return figures


def _older(readings: list[Reading]) -> Iterator[Figure]:
    """To each of the peers alone."""
    for measure, peers, goal in (
        ("decode 1", "llama.cpp", 1.25),
        ("decode 8", "llama.cpp", 2.5),
        ("decode 32", "llama.cpp", 4.0),
        ("prefill 256", "llama.cpp", 5.0),
        ("prefill 256", "OpenVINO", 1.0),
        ("decode 1", "PyTorch StreamingLLM", 1.46),
    ):
        yield from _ratio(readings, measure, (peers,), goal)


def _ratio(readings: list[Reading], measure: str, peers: tuple[str, ...], goal: float) -> Iterator[Figure]:
    """Our best engine against the best of the peers whose names begin so, by the median over rounds."""
    taken = [reading for reading in readings if reading.measure == measure]
    groups = [[reading for reading in taken if reading.member.startswith(names)] for names in (OURS, peers)]
    if all(groups):
        ours, theirs = (max(group, key=lambda reading: median(reading.values)) for group in groups)
        if ratio := compare(ours, theirs):
            whom = peers[0] if len(peers) == 1 else "peer"
            name = f"{ours.shape}, {measure}: the best of ours, to the best {whom}"
            yield Figure("peers", name, ratio.median, goal)


def _memory(readings: list[Reading], shape: str) -> Iterator[Figure]:
    """With full windows: what keys and values in fewer bits leave of the process."""
    sizes = {reading.member: reading.values[-1] for reading in readings if reading.measure == "memory, 32 sessions"}
    if (wide := sizes.get(WIDE)) and (ours := [sizes[name] for name in OURS if name in sizes]):
        name = f"{shape}, memory at 32 sessions: the least of ours, to int8 with keys and values in float32"
        yield Figure("peers", name, min(ours) / wide, 0.55, at_least=False)


SECTIONS = (
    Section("window", ("bench/service/soak.py", "--position", "20000", "--json"), _window),
    Section("ppl", ("{bin}/sinkserve", "eval", "ppl", "demo/spec.yaml", "--text", "demo/transcript.txt", "--tokens",
                    "4096", "--json"), _perplexity),
    Section("streameval", ("{bin}/sinkserve", "eval", "streameval", "demo/spec.yaml", "--json"), _streameval),
    Section("recomputation", ("{bin}/sinkserve", "eval", "speed", "demo/spec.yaml", "--cache", "1024", "--cache",
                              "4096", "--json"), _recomputation),
    Section("constant-kv", ("bench/engine/constant_kv.py", "--json"), _constant_kv),
    Section("service", ("bench/service/throughput.py", "--json"), _service),
    Section("crowd", ("bench/service/hostile.py", "--json"), _crowd),
    Section("startup", ("bench/service/startup.py", "--json"), _startup),
    Section("builder", ("bench/builder/speed.py", "--json"), _builder),
    Section("speculation", ("bench/engine/speculation.py", "--json"), _speculation),
    *(Section(f"step-{name}", ("bench/engine/step.py", f"{{folder}}/{SHAPE}/checkpoint", "--precision", precision,
                               *others, "--engine", f"{{folder}}/{SHAPE}/{name}", "--json"), _steps(name), SHAPE)
      for name, precision, others in (("int8", "int8", ()), ("int4", "int4", ()),
                                      ("int4-128", "int4", ("--int4-block", "128")))),
    *(Section(f"peers-{shape}", ("bench/peers/run.py", "--shape", shape, "--sessions", "1,8,32", "--prefill", "256",
                                 "--turns", "0", "--rounds", "3", "--decode-s", "1", "--out", "{out}", *CHOSEN),
              _peers(shape), needs=".venv-peers", remedy="python bench/peers/run.py --install")
      for shape in GOALS),
)  # fmt: skip
