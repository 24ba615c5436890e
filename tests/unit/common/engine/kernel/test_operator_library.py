"""The operator's library: how it is compiled, and that a graph says the same where there is none."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

import numpy as np
import pytest

from common.engine.kernel import operator_library
from common.engine.kernel.compile import FOLDER, LIBRARY, SOURCES, compile_library, compiler
from common.window import Geometry, SessionWindow
from tests.samples.checkpoints import write_checkpoint
from tests.samples.engines import build_engine
from tests.samples.families import write_family
from tests.samples.streams import feed_all, random_tokens

WITHOUT = "no C compiler at installation, or no AVX-512"
GEOMETRY = Geometry(sinks=4, window=40, chunk=16, slots=2)


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    for name in (*SOURCES, "window_attention.h"):
        shutil.copy(FOLDER / name, tmp_path)
    (tmp_path / LIBRARY.name).write_bytes(b"of another version")
    return tmp_path


@pytest.mark.long
@pytest.mark.skipif(compiler() is None, reason="no C compiler")
def test_it_compiles_without_a_warning(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", " ".join([*(compiler() or []), "-Wall", "-Wextra", "-Werror"]))
    assert not compile_library(sources)
    assert (sources / LIBRARY.name).read_bytes().startswith(b"\x7fELF")
    assert {path.name for path in sources.iterdir()} == {*SOURCES, "window_attention.h", LIBRARY.name}


@pytest.mark.parametrize(("script", "said"), [("echo no such flag >&2; exit 3", "no such flag"), ("exit 3", "3")])
def test_a_compiler_that_fails_is_named_and_leaves_nothing(
    sources: Path, monkeypatch: pytest.MonkeyPatch, script: str, said: str
) -> None:
    broken = sources.parent / "broken-cc"
    broken.write_text(f"#!/bin/sh\n{script}\n")
    broken.chmod(broken.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CC", str(broken))
    why = compile_library(sources)
    assert "broken-cc" in why
    assert said in why
    assert not (sources / LIBRARY.name).exists()


def test_a_compiler_that_is_not_there_is_named(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "/nowhere/cc")
    assert "/nowhere/cc" in compile_library(sources)


def test_a_library_that_cannot_be_loaded_is_told_and_done_without(
    sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operator_library, "LIBRARY", sources / LIBRARY.name)
    operator_library.available.cache_clear()
    try:
        assert not operator_library.available()
    finally:
        operator_library.available.cache_clear()


@pytest.mark.parametrize("said", ["flags\t\t: fpu avx2 fma avx512f\n", "model name\t: another\n", None])
def test_a_processor_without_the_instructions_does_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str | None
) -> None:
    if said is not None:
        (tmp_path / "cpuinfo").write_text(said)
    monkeypatch.setattr(operator_library, "CPU_INFO", tmp_path / "cpuinfo")
    operator_library.available.cache_clear()
    try:
        assert not operator_library.available()
    finally:
        operator_library.available.cache_clear()


@pytest.mark.skipif(not operator_library.available(), reason=WITHOUT)
@pytest.mark.parametrize("family", ["llama", "gemma2", "mpt"])
def test_the_graphs_own_function_says_what_the_operator_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    folder = tmp_path / family
    folder = write_checkpoint(folder, tokenizer=False) if family == "llama" else write_family(folder, family)
    window, steps = SessionWindow(4, 40), [16, 1, 4]
    said = []
    for available in (True, False):
        monkeypatch.setattr(operator_library, "available", lambda found=available: found)
        engine = build_engine(folder, GEOMETRY, narrow_cache=True)
        tokens = random_tokens(120, engine.vocabulary_size)
        said.append([*feed_all(engine, 0, window, tokens, steps).values()])
    for one, other in zip(*said, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=2e-3 * np.abs(one).max())
    assert any((one != other).any() for one, other in zip(*said, strict=True))
