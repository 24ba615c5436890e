"""What a run leaves: every value, with the machine, the versions and the date, as one file of JSON."""

from __future__ import annotations

import datetime as dt
import os
import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from pydantic import TypeAdapter

from bench.peers.measure import Plan
from bench.peers.readings import Reading
from bench.peers.table import page

FLAGS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")


@dataclass
class Results:
    """All of one run, or of several on the same machine."""

    machine: dict[str, Any]
    plan: Plan
    versions: dict[str, dict[str, str]] = field(default_factory=dict)
    """By member, then by package."""
    readings: list[Reading] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """Write all of it, with the load of the machine as it is by now."""
        self.machine["load_last"] = os.getloadavg()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_FORM.dump_json(self, indent=1).decode() + "\n")

    @classmethod
    def read(cls, path: Path) -> Results:
        """What `write` wrote."""
        return _FORM.validate_json(path.read_text())

    def page(self) -> str:
        """The machine, what was measured and the tables."""
        return "\n\n".join([self._head(), page(self.readings)])

    def _head(self) -> str:
        machine, plan = self.machine, self.plan
        load = " to ".join(f"{machine[when][0]:.1f}" for when in ("load_first", "load_last"))
        clock = "time by the wall" if machine["clock"] == "wall" else "time of the processor, as others worked as well"
        return (
            f"{machine['date']}, {machine['processor']} ({machine['threads']} threads of {machine['processors']} "
            f"processors, {machine['memory_gib']:.0f} GiB; {', '.join(machine['flags'])}), load {load}; {clock}. "
            f"{plan.rounds} rounds by turns; decoding over full caches for {plan.decode_s:g} s a round; conversations "
            f"of {plan.turns} turns of {plan.prompt} tokens in and {plan.new} out; ours in chunks of "
            f"{machine['chunk']}.\n\n{_versions(self.versions)}"
        )


_FORM = TypeAdapter(Results)


def machine(threads: int, chunk: int, clock: str) -> dict[str, Any]:
    """Where and when; `load` is that of the last minute, from others too."""
    information = Path("/proc/cpuinfo").read_text()
    fields = dict(line.split(":", 1) for line in information.split("\n\n", 1)[0].splitlines())
    said = {key.strip(): value.strip() for key, value in fields.items()}
    return {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "processor": said.get("model name", platform.processor()),
        "flags": [flag for flag in FLAGS if flag in said.get("flags", "").split()],
        "processors": os.cpu_count(),
        "threads": threads,
        "chunk": chunk,
        "clock": clock,
        "memory_gib": psutil.virtual_memory().total / 2**30,
        "python": platform.python_version(),
        "load_first": os.getloadavg(),
    }


def _versions(versions: dict[str, dict[str, str]]) -> str:
    packages = {name: number for each in versions.values() for name, number in each.items() if len(number) < 40}
    return ", ".join(f"{name} {number}" for name, number in sorted(packages.items())) + "."
