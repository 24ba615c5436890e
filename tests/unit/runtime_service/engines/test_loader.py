"""What is refused before an engine's files are read."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import Reason, ResourceExhausted
from common.window import Geometry
from runtime_service.engines.loader import available_memory_bytes, check_memory
from tests.samples.whole_manifests import make_manifest


def test_an_engine_that_does_not_fit_is_refused_with_both_numbers() -> None:
    manifest = make_manifest(Geometry(4, 8, 4, 3)).model_copy(
        update={"weight_bytes": 5 << 20, "kv_bytes_per_slot": 1 << 20}
    )
    check_memory(manifest, 8 << 20)
    with pytest.raises(ResourceExhausted) as caught:
        check_memory(manifest, (8 << 20) - 1)
    assert caught.value.reason is Reason.OUT_OF_MEMORY
    assert caught.value.metadata == {"needed_bytes": str(8 << 20), "available_bytes": str((8 << 20) - 1)}
    assert "8 MiB" in caught.value.message


def test_a_control_group_bounds_the_memory(tmp_path: Path) -> None:
    free = available_memory_bytes(tmp_path)
    assert free > 1 << 20
    (tmp_path / "memory.max").write_text("3000\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert available_memory_bytes(tmp_path) == 2000
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory_bytes(tmp_path) > 1 << 20
