from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from builder_service.machine.cgroup import ControlGroup
from builder_service.machine.memory import (
    free_disk_bytes,
    free_memory_bytes,
    memory_limit_bytes,
    out_of_memory_kills,
    peak_memory_bytes,
)


@pytest.fixture
def plenty(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = type("memory", (), {"available": 10_000, "total": 20_000})()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)


def _group(folder: Path, limit: int, used: int) -> ControlGroup:
    folder.mkdir()
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    return ControlGroup(folder)


@pytest.mark.usefixtures("plenty")
def test_memory_is_the_machines_where_nothing_limits_it() -> None:
    assert (free_memory_bytes(()), memory_limit_bytes(())) == (10_000, 20_000)


@pytest.mark.usefixtures("plenty")
def test_the_group_with_the_least_room_limits_it(tmp_path: Path) -> None:
    groups = (_group(tmp_path / "inner", 1000, 100), _group(tmp_path / "outer", 5000, 4900))
    assert (free_memory_bytes(groups), memory_limit_bytes(groups)) == (100, 1000)


LIMITED = """
from builder_service.machine.memory import free_memory_bytes
from builder_service.machine.memory import limit_memory
from builder_service.machine.memory import memory_limit_bytes
limit_memory({limit})
print(memory_limit_bytes(), free_memory_bytes())
try:
    bytearray({limit})
except MemoryError:
    print("no memory")
"""


def test_a_process_that_limited_itself_knows_and_gets_no_more() -> None:
    limit = 400 * 2**20
    told = subprocess.run(
        [sys.executable, "-c", LIMITED.format(limit=limit)], capture_output=True, text=True, check=True
    ).stdout.split(maxsplit=2)
    assert int(told[0]) == limit
    assert 0 < int(told[1]) <= limit
    assert told[2] == "no memory\n"


def test_a_limit_from_outside_is_not_lifted() -> None:
    code = "import resource; from builder_service.machine.memory import limit_memory; limit_memory(2**40);"
    code += "print(resource.getrlimit(resource.RLIMIT_DATA))"
    most = 2**34
    told = subprocess.run(
        [sys.executable, "-c", f"import resource; resource.setrlimit(resource.RLIMIT_DATA, ({most}, {most})); {code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout == f"({most}, {most})\n"
    assert resource.getrlimit(resource.RLIMIT_DATA)[0] != most


def test_the_peak_of_a_process_is_at_least_what_it_has() -> None:
    block = bytearray(32 * 2**20)
    assert len(block) < peak_memory_bytes() == peak_memory_bytes(os.getpid())
    assert peak_memory_bytes(2**22 + 1) == 0, "no process has this id"


def test_kills_are_counted_of_the_groups_and_of_the_machine(tmp_path: Path) -> None:
    assert out_of_memory_kills((), tmp_path / "vmstat") == 0
    (tmp_path / "memory.events").write_text("oom 5\noom_kill 2\n")
    (tmp_path / "vmstat").write_text("oom_kill 3\nother 9\n")
    assert out_of_memory_kills((ControlGroup(tmp_path),), tmp_path / "vmstat") == 5


def test_a_disk_has_room(tmp_path: Path) -> None:
    assert free_disk_bytes(tmp_path) > 0
