from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder_service.tensorrt.timing_cache import TimingCaches
from common.store.blob_store import open_store

DATA = b"times of kernels"
KERNELS = ("sm_90", "11.4.0.106")


@pytest.fixture(params=["folder", "file URL", "object store"])
def caches(request: pytest.FixtureRequest, tmp_path: Path) -> TimingCaches:
    if request.param == "object store":
        return TimingCaches(request.getfixturevalue("bucket").url)
    return TimingCaches(str(tmp_path) if request.param == "folder" else (tmp_path / "a store").as_uri())


def test_what_is_saved_is_loaded(caches: TimingCaches) -> None:
    caches.save(*KERNELS, DATA)
    assert caches.load(*KERNELS) == DATA


def test_where_nothing_was_saved_there_is_an_empty_cache(caches: TimingCaches) -> None:
    assert caches.load(*KERNELS) == b""


def test_the_last_writer_wins(caches: TimingCaches) -> None:
    caches.save(*KERNELS, DATA)
    caches.save(*KERNELS, b"newer")
    assert caches.load(*KERNELS) == b"newer"


def test_each_architecture_and_version_has_its_own(caches: TimingCaches) -> None:
    caches.save(*KERNELS, DATA)
    assert caches.load("sm_86", "11.4.0.106") == b""
    assert caches.load("sm_90", "11.4.1.9") == b""


def test_a_cache_outlives_who_wrote_it_and_lies_beside_the_blobs(tmp_path: Path) -> None:
    TimingCaches(str(tmp_path)).save(*KERNELS, DATA)
    assert TimingCaches(str(tmp_path)).load(*KERNELS) == DATA
    assert [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()] == [
        Path("timing-caches/sm_90-11.4.0.106.cache")
    ]
    assert list(open_store(str(tmp_path)).digests()) == []


@given(st.data())
def test_a_damaged_cache_is_none(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("store")
    caches = TimingCaches(str(folder))
    caches.save(*KERNELS, DATA)
    path = folder / "timing-caches" / "sm_90-11.4.0.106.cache"
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    torn = whole[:at] + data.draw(st.sampled_from([b"", bytes([whole[at] ^ 1]) + whole[at + 1 :]]))
    path.write_bytes(torn)
    assert caches.load(*KERNELS) == b""
