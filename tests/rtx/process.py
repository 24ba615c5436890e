"""Graphs compiled by the real TensorRT-RTX, in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pytest

from common.engine.tensorrt.library import TENSORRT_RTX
from common.window import Geometry

ROOT = Path(__file__).resolve().parents[2]
GEOMETRY = Geometry(sinks=4, window=9, chunk=4, slots=3)
needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec(TENSORRT_RTX.module) is None, reason="NVIDIA publishes TensorRT-RTX for Linux"
)


@dataclass(frozen=True)
class Job:
    """A graph to be compiled, or only to be read."""

    graph: str
    precision: str = "bf16"
    gpus: Sequence[str] = ("sm86",)
    geometry: dict[str, int] = field(default_factory=lambda: asdict(GEOMETRY))
    compiles: bool = True
    plan: str = ""
    """Where to; empty: beside the graph."""
    memory_mib: int = 0
    """How much more memory of its own the process may have from now on; 0: as much as there is."""


@dataclass(frozen=True)
class Outcome:
    """What came of it."""

    supported: bool = True
    """What the parser says of the whole graph, if it was only read."""
    layers: dict[str, int] = field(default_factory=dict)
    plan_bytes: int = 0
    error: str = ""
    log: list[str] = field(default_factory=list)


def compile_all(jobs: Sequence[Job]) -> list[Outcome]:
    """What comes of the jobs, one after another."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.rtx.compiling"],
        input=json.dumps([asdict(job) for job in jobs]),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=ROOT,
    )
    return [Outcome(**outcome) for outcome in json.loads(done.stdout)]
