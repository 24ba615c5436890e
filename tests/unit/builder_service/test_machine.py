from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from builder_service.machine import free_disk_bytes, free_memory_bytes, out_of_memory_kills


@pytest.fixture
def plenty(monkeypatch: pytest.MonkeyPatch) -> None:
    free = type("free", (), {"available": 10_000})()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)


@pytest.mark.usefixtures("plenty")
def test_memory_is_the_machines_where_no_group_limits_it(tmp_path: Path) -> None:
    assert free_memory_bytes(tmp_path) == 10_000
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("5\n")
    assert free_memory_bytes(tmp_path) == 10_000


@pytest.mark.usefixtures("plenty")
@pytest.mark.parametrize(
    ("limit", "used", "cached", "free"), [(1000, 400, 0, 600), (1000, 900, 300, 400), (5, 9, 0, 0)]
)
def test_a_group_limits_it_and_its_page_cache_is_free(
    tmp_path: Path, limit: int, used: int, cached: int, free: int
) -> None:
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "memory.current").write_text(f"{used}\n")
    (tmp_path / "memory.stat").write_text(f"active_file 7\ninactive_file {cached}\n")
    assert free_memory_bytes(tmp_path) == free


def test_kills_are_counted_of_the_group_and_of_the_machine(tmp_path: Path) -> None:
    assert out_of_memory_kills(tmp_path, tmp_path / "vmstat") == 0
    (tmp_path / "memory.events").write_text("oom 5\noom_kill 2\n")
    (tmp_path / "vmstat").write_text("oom_kill 3\nother 9\n")
    assert out_of_memory_kills(tmp_path, tmp_path / "vmstat") == 5


def test_a_disk_has_room(tmp_path: Path) -> None:
    assert free_disk_bytes(tmp_path) > 0
