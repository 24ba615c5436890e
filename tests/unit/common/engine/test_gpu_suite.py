"""The suite for machines with a GPU, carried out over fakes: what is never run before that day would not run then."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from bench.engine import gpu
from common.engine.engine import Engine, Feed, FloatArray, SlotState
from common.errors import FailedPrecondition, Reason
from common.spec.model_spec import Precision
from common.window import Geometry, SessionWindow
from tests.fakes.gpu import install
from tests.gpu import golden as golden_module
from tests.gpu.borrowed import public_names
from tests.gpu.findings import Findings
from tests.gpu.golden import Closeness, Golden, compare, greedy
from tests.gpu.machine import Here
from tests.gpu.provider_session import CUDA
from tests.gpu.tolerances import TOLERANCES
from tests.samples.checkpoints import write_checkpoint
from tests.samples.engines import build_engine
from tests.samples.families import CONFIGS
from tests.samples.streams import feed_all, random_tokens

ROOT = Path(__file__).resolve().parents[4]
WINDOW = SessionWindow(2, 9)
GEOMETRY = Geometry(2, 9, 4, slots=2)
FAMILIES = ("llama", "falcon-7b", "mpt")
ELSEWHERE = " or ".join(  # families but for three, what the default suite does elsewhere, and wide halves
    (*sorted(CONFIGS.keys() - set(FAMILIES)), "test_i1", "test_i2", "test_i3", "ten_thousand", "64-fp16", "64-bf16")
)


def carry_out(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", "gpu", "tests/gpu", "-q", *arguments]
    inherited = {name: value for name, value in os.environ.items() if name != "SINKSERVE_TEST_FAKE_GPU"}
    return subprocess.run(command, cwd=ROOT, env=inherited | environment, capture_output=True, text=True, check=False)


@pytest.mark.long
def test_the_suite_finds_all_that_it_borrows() -> None:
    done = carry_out("--collect-only", "-q", SINKSERVE_TEST_FAKE_GPU="1")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


@pytest.mark.timeout(1200)  # it is a suite, whose tests each have a timeout of their own
@pytest.mark.nightly
def test_the_suite_passes_over_a_gpu_that_is_none_and_says_that_it_is_none() -> None:
    done = carry_out("-k", f"not ({ELSEWHERE})", SINKSERVE_TEST_FAKE_GPU="1")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    lines = done.stdout.splitlines()
    assert "A FAKE GPU: nothing below says anything about a real one." in lines
    for family in FAMILIES:
        for precision in ("fp32", "fp16", "bf16"):
            assert [line for line in lines if line.startswith(f"| {family} | {precision} |") and "| pass |" in line]
    for path in sorted((ROOT / "tests" / "gpu").glob("test_*.py")):
        (row,) = (line for line in lines if line.startswith(f"| tests/gpu/{path.name} |"))
        _, passed, failed, _ = row.strip("| ").split(" | ")
        assert (int(passed) > 0, failed) == (True, "0"), row


@pytest.mark.skipif(CUDA in ort.get_available_providers(), reason="the CUDA provider alone can run a part of the suite")
def test_where_there_is_no_gpu_it_ends_at_once_in_one_sentence() -> None:
    done = carry_out(CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 1
    (said,) = (line for line in (done.stderr + done.stdout).splitlines() if line)
    assert said.startswith("Exit: nothing can be tested here: ")
    assert said.endswith(" has no CUDAExecutionProvider")


@dataclass
class Shifted:
    """An engine that takes every token for the one after it."""

    engine: Engine

    @property
    def geometry(self) -> Geometry:
        return self.engine.geometry

    @property
    def vocabulary_size(self) -> int:
        return self.engine.vocabulary_size

    @property
    def slot_multiple(self) -> int:
        return self.engine.slot_multiple

    @property
    def draft_rows(self) -> int:
        return self.engine.draft_rows

    def longest_step(self, position: int) -> int:
        return self.engine.longest_step(position)

    def step(self, feeds: tuple[Feed, ...]) -> FloatArray:
        return self.engine.step(tuple(replace(feed, position=feed.position + 1) for feed in feeds))

    def clear(self, slot: int) -> None:
        self.engine.clear(slot)

    def export_slot(self, slot: int, position: int, window: SessionWindow) -> SlotState:
        return self.engine.export_slot(slot, position, window)

    def import_slot(self, slot: int, state: SlotState) -> None:
        self.engine.import_slot(slot, state)

    def close(self) -> None:
        self.engine.close()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with closing(build_engine(write_checkpoint(tmp_path / "model", tokenizer=False), GEOMETRY)) as made:
        yield made


def test_golden_tokens_are_the_prompt_and_the_best_tokens_after_it(engine: Engine) -> None:
    golden = greedy(engine, 0, WINDOW, [5, 6, 7], 20)
    assert golden.tokens[:3] == (5, 6, 7)
    assert golden.tokens[3:] == tuple(golden.logits[2:-1].argmax(axis=1).tolist())
    assert golden.logits.shape == (23, engine.vocabulary_size)
    engine.clear(0)
    assert compare(feed_all(engine, 0, WINDOW, golden.tokens, [4, 1]), golden).within(1e-5)


def test_positions_that_are_off_by_one_are_seen_in_the_coarsest_precision(engine: Engine) -> None:
    golden = greedy(engine, 0, WINDOW, random_tokens(5, engine.vocabulary_size), 60)
    engine.clear(0)
    closeness = compare(feed_all(Shifted(engine), 0, WINDOW, golden.tokens, [1]), golden)
    assert not closeness.within(TOLERANCES[Precision.BF16])


def row(*numbers: float) -> FloatArray:
    return np.array(numbers, np.float32)


GOLDEN = Golden(tokens=(3, 1, 0), logits=np.array([[2, -4, 1], [4, 1, 2], [1, 2, 4]], np.float32), prompt=2)


def test_an_error_is_relative_to_the_largest_logit_and_a_gap_counts_chosen_tokens_alone() -> None:
    exact = dict(enumerate(GOLDEN.logits))
    assert compare(exact, GOLDEN) == Closeness(0.0, 0.0)
    assert compare(exact | {0: row(2, -3, 1)}, GOLDEN) == Closeness(0.25, 0.0)
    assert compare(exact | {1: row(3, 1, 4)}, GOLDEN) == Closeness(0.5, 0.25)
    assert compare({2: GOLDEN.logits[2] * np.float32(1.5)}, GOLDEN) == Closeness(0.5, 0.0)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_a_logit_that_is_no_number_is_infinitely_wrong(number: float) -> None:
    closeness = compare({1: row(3, number, 2)}, GOLDEN)
    assert closeness.error == np.inf
    assert not closeness.within(1e30)


def test_a_family_that_failed_once_is_reported_as_failed() -> None:
    findings = Findings()
    llama = findings.family("llama", Precision.FP16)
    with pytest.raises(AssertionError, match="far off"), llama.checked():
        raise AssertionError("far off")
    with findings.family("llama", Precision.FP16).checked():
        llama.verified = 0.25
    (line,) = (line for line in findings.tables(Here(None, "nothing", False), {}) if "llama" in line)
    assert line == "| llama | fp16 | inf | inf | 1.6e-02 | 2.5e-01 | 0.0e+00 | FAIL |"


def test_a_suite_that_lacks_what_is_told_otherwise_is_noticed() -> None:
    with pytest.raises(AssertionError, match="no {'nothing_like_it'} any more"):
        public_names(golden_module, but={"nothing_like_it"})
    assert public_names(golden_module, but={"greedy"}).keys() >= {"compare", "Golden"}


def test_the_bench_says_limit_ratio_and_the_hosts_share_over_a_gpu_that_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from bench.engine import gpu_engine  # behind the fake, which may have to take TensorRT's name

    monkeypatch.setattr(gpu_engine, "cudart", install(monkeypatch))
    folder = str(write_checkpoint(tmp_path / "model", tokenizer=False))
    shape = ("--window", "60", "--chunk", "16", "--slots", "3", "--steps", "4", "--copy-mib", "1")
    monkeypatch.setattr(sys, "argv", ["gpu.py", folder, "--precision", "fp32", *shape])
    gpu.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("memory: ") and line.endswith(" GB/s read and written")]
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ") and line[2].isdigit()]
    assert [row[0] for row in rows] == ["1 x 1", "3 x 1", "1 x 16"]
    for least, median, host in (map(float, row[1:4]) for row in rows):
        assert least <= median >= host > 0


def test_the_bench_without_a_gpu_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def find_none() -> None:
        raise FailedPrecondition(Reason.ENGINE_INCOMPATIBLE, "there is no GPU")

    monkeypatch.setattr(gpu, "find_machine", find_none)
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    with pytest.raises(SystemExit, match="nothing can be measured here: there is no GPU"):
        gpu.main()
