from __future__ import annotations

from pathlib import Path

import pytest

from builder_service.machine.cgroup import ControlGroup, field, own_groups


def _write(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("limit", "used", "cached", "free"), [(1000, 400, 0, 600), (1000, 900, 300, 400), (5, 9, 0, 0)]
)
@pytest.mark.parametrize("legacy", [False, True])
def test_what_is_free_counts_page_cache_as_free(
    tmp_path: Path, limit: int, used: int, cached: int, free: int, *, legacy: bool
) -> None:
    if legacy:
        files = {"memory.limit_in_bytes": limit, "memory.usage_in_bytes": used}
        stat = f"inactive_file 9\ntotal_inactive_file {cached}\n"
    else:
        files, stat = {"memory.max": limit, "memory.current": used}, f"active_file 7\ninactive_file {cached}\n"
    _write(tmp_path, **{name: f"{size}\n" for name, size in files.items()}, **{"memory.stat": stat})
    group = ControlGroup(tmp_path, legacy)
    assert (group.limit_bytes, group.free_bytes) == (limit, free)


def test_a_group_without_a_limit_has_none(tmp_path: Path) -> None:
    assert (ControlGroup(tmp_path).limit_bytes, ControlGroup(tmp_path).free_bytes) == (None, None)
    _write(tmp_path, memory__max="max\n", memory__current="5\n", memory__limit_in_bytes="9223372036854771712\n")
    assert (ControlGroup(tmp_path).limit_bytes, ControlGroup(tmp_path).free_bytes) == (None, None)
    assert ControlGroup(tmp_path, legacy=True).limit_bytes is None


def test_kills_are_counted_by_either_version(tmp_path: Path) -> None:
    assert ControlGroup(tmp_path).kills == 0
    _write(tmp_path, memory__events="oom 5\noom_kill 2\n", memory__oom_control="under_oom 0\noom_kill 3\n")
    assert (ControlGroup(tmp_path).kills, ControlGroup(tmp_path, legacy=True).kills) == (2, 3)


def test_the_groups_around_a_process_are_found_from_the_inside_out(tmp_path: Path) -> None:
    membership = _write(tmp_path / "proc", cgroup="4:memory:/slice/job\n2:cpu,cpuacct:/\n0::/service\n") / "cgroup"
    root = tmp_path / "root"
    for folder in ("service", "memory/slice/job"):
        (root / folder).mkdir(parents=True)
    found = [(str(group.folder.relative_to(root)), group.legacy) for group in own_groups(membership, root)]
    assert found == [
        ("memory/slice/job", True),
        ("memory/slice", True),
        ("memory", True),
        ("service", False),
        (".", False),
    ]


def test_a_container_sees_the_root_of_its_group_alone(tmp_path: Path) -> None:
    membership = _write(tmp_path / "proc", cgroup="0::/kubepods/pod1\n") / "cgroup"
    assert own_groups(membership, _write(tmp_path / "root")) == (ControlGroup(tmp_path / "root"),)


def test_a_system_without_groups_has_none(tmp_path: Path) -> None:
    assert own_groups(tmp_path / "nothing", tmp_path) == ()


def test_a_field_is_found_by_its_whole_name(tmp_path: Path) -> None:
    _write(tmp_path, stat="total_file 1\nfile 2\n")
    assert [field(tmp_path / "stat", name) for name in ("file", "total_file", "other")] == [2, 1, 0]
