from __future__ import annotations

import errno
import io
import json
import os
import queue
import select
import subprocess
import sys
from pathlib import Path

import pytest

from builder_service.pipeline.child import PipeParent, explain
from builder_service.pipeline.estimate import Estimate
from builder_service.pipeline.messages import Order
from builder_service.queue.build import Stage
from builder_service.worker.child_process import COMMAND
from common.errors import FailedPrecondition, InvalidArgument, Reason
from common.spec.model_spec import CacheGeometry, ModelSpec, Source
from tests.samples.checkpoints import write_checkpoint


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), Reason.OUT_OF_MEMORY),
        (RuntimeError("std::bad_alloc"), Reason.OUT_OF_MEMORY),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), Reason.OUT_OF_MEMORY),
        (OSError(errno.ENOSPC, "No space left on device"), Reason.OUT_OF_DISK),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), Reason.OUT_OF_DISK),
        (ZeroDivisionError("oh"), Reason.BUILD_CRASHED),
        (InvalidArgument(Reason.CHECKPOINT_INVALID, "bad"), Reason.CHECKPOINT_INVALID),
        (FailedPrecondition(Reason.ENGINE_INCOMPATIBLE, "not loaded: std::bad_alloc"), Reason.OUT_OF_MEMORY),
    ],
)
def test_every_failure_has_a_cause(error: Exception, reason: Reason, tmp_path: Path) -> None:
    assert explain(error, Stage.QUANTIZE, tmp_path).reason is reason


def test_a_fault_of_ours_names_its_stage_and_goes_to_the_log(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def fail() -> None:
        raise ZeroDivisionError("oh")

    with pytest.raises(ZeroDivisionError) as caught:
        fail()
    assert "failed in VERIFY: ZeroDivisionError: oh" in explain(caught.value, Stage.VERIFY, tmp_path).message
    assert "in fail" in capsys.readouterr().err


NEEDS = Estimate(weight_bytes=1, kv_bytes_per_slot=1, memory_bytes=700 * 2**20, disk_bytes=300 * 2**20)


def test_who_ran_out_of_memory_hears_what_was_estimated_taken_and_allowed(tmp_path: Path) -> None:
    error = explain(MemoryError("Unable to allocate 1 GiB"), Stage.VERIFY, tmp_path, NEEDS)
    assert "in VERIFY: Unable to allocate 1 GiB (estimate 700 MiB, peak " in error.message
    assert {"estimate_bytes", "peak_bytes", "limit_bytes", "stage"} == set(error.metadata)
    assert 0 < int(error.metadata["peak_bytes"]) < int(error.metadata["limit_bytes"])


def test_who_ran_out_of_disk_hears_where_and_how_much(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "weights.bin"))
    error = explain(full, Stage.QUANTIZE, tmp_path, NEEDS)
    assert "about 300 MiB" in error.message
    assert f"are free in {tmp_path}" in error.message
    assert (error.metadata["path"], error.metadata["needed_bytes"]) == (str(tmp_path / "weights.bin"), str(300 * 2**20))
    assert int(error.metadata["free_bytes"]) > 0


def test_bytes_are_counted_where_a_stage_has_any() -> None:
    out = io.BytesIO()
    parent = PipeParent(queue.SimpleQueue(), out)
    parent.progress(Stage.RESOLVE, 0.0, 1000)
    parent.progress(Stage.RESOLVE, 1.0, 1000)
    parent.progress(Stage.PLAN, 1.0)
    told = [(message["bytes_done"], message["bytes_total"]) for message in _sent(out)]
    assert told == [(0, 1000), (1000, 1000), (0, 0)]


def test_the_plan_is_told_before_anything_can_go_wrong_of_it() -> None:
    out = io.BytesIO()
    parent = PipeParent(queue.SimpleQueue(), out)
    parent.expect(NEEDS)
    assert parent.needs is NEEDS
    assert [(message["kind"], message["estimate_bytes"]) for message in _sent(out)] == [("planned", 700 * 2**20)]


def _sent(out: io.BytesIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_progress_is_told_as_often_as_a_person_reads_but_never_loses_an_end() -> None:
    out = io.BytesIO()
    parent = PipeParent(queue.SimpleQueue(), out)
    for share in range(101):
        parent.progress(Stage.RESOLVE, share / 100)
    parent.progress(Stage.PLAN, 0.0)
    told = [(message["stage"], message["done"]) for message in _sent(out)]
    assert told[0] == ("RESOLVE", 0.0)
    assert told[-2:] == [("RESOLVE", 1.0), ("PLAN", 0.0)]
    assert len(told) < 50


def test_a_question_waits_for_its_answer() -> None:
    out, received = io.BytesIO(), queue.SimpleQueue[bytes]()
    received.put(b'{"go_on": true}\n')
    received.put(b'{"go_on": false}\n')
    parent = PipeParent(received, out)
    assert parent.may_build("sha256:0")
    assert not parent.may_store(("sha256:1",))
    assert [message["kind"] for message in _sent(out)] == ["ask_key", "ask_store"]


@pytest.fixture
def order(tmp_path: Path) -> bytes:
    spec = ModelSpec(name="demo", source=Source(uri=str(tmp_path / "nothing")))
    made = Order(spec=spec, work=tmp_path, source_roots=(tmp_path,), store_url=str(tmp_path / "store"))
    return made.model_dump_json().encode() + b"\n"


def _start(cwd: Path) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    return subprocess.Popen(COMMAND, stdin=pipe, stdout=pipe, stderr=pipe, cwd=cwd, start_new_session=True)


def test_a_real_child_obeys_and_ends(order: bytes, tmp_path: Path) -> None:
    (tmp_path / "common.py").write_text("raise SystemExit('a module of the working directory was run')")
    with _start(tmp_path) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(order)
        child.stdin.flush()
        said = [json.loads(line) for line in child.stdout]
        assert child.wait() == 0
    assert said[-1]["kind"] == "failed"
    assert said[-1]["failure"]["reason"] == "SOURCE_NOT_FOUND"


def test_a_child_dies_with_its_worker(tmp_path: Path) -> None:
    with _start(tmp_path) as child:
        assert child.stdin is not None
        child.stdin.close()
        assert child.wait() == -9


LIMITED = """
import re, resource
import builder_service.pipeline.child
size = int(re.search("VmSize:\\s+([0-9]+)", open("/proc/self/status").read()).group(1)) * 1024
resource.setrlimit({limit})
builder_service.pipeline.child.main()
"""


@pytest.mark.parametrize(
    ("limit", "reason"),
    [
        ("resource.RLIMIT_AS, (size + 2**26, size + 2**26)", "OUT_OF_MEMORY"),
        ("resource.RLIMIT_FSIZE, (2**20, 2**20)", "OUT_OF_DISK"),
    ],
)
def test_a_build_that_runs_out_says_of_what(tmp_path: Path, limit: str, reason: str) -> None:
    """Real limits: 128 MiB of weights in 64 MiB of memory, or in files of at most one."""
    model = write_checkpoint(tmp_path / "model", hidden=512, layers=1, vocab=32_768, dtype="bfloat16", tokenizer=False)
    cache = CacheGeometry(sink_tokens=4, window_tokens=60, chunk_tokens=16, max_slots=2)
    spec = ModelSpec(name="demo", source=Source(uri=str(model)), cache=cache)
    made = Order(spec=spec, work=tmp_path, source_roots=(tmp_path,), store_url=str(tmp_path / "store"))
    answers = b'{"go_on": true}\n' * 2
    command = [sys.executable, "-c", LIMITED.replace("{limit}", limit)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(made.model_dump_json().encode() + b"\n" + answers)
        child.stdin.flush()
        said = [json.loads(line) for line in child.stdout]
    assert said[-1]["kind"] == "failed", said[-1]
    assert said[-1]["failure"]["reason"] == reason, said[-1]


WORKER = """
import asyncio, sys
from builder_service.worker.child_process import start_child
async def main():
    child = await start_child()
    print(child.process.pid, flush=True)
    await child.wait(1000)
asyncio.run(main())
"""


def test_a_child_of_a_killed_worker_dies(tmp_path: Path) -> None:
    with subprocess.Popen([COMMAND[0], "-c", WORKER], stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        child = int(worker.stdout.readline())
        pidfd = os.pidfd_open(child)
        worker.kill()
    ended, _, _ = select.select([pidfd], [], [], 60)  # readable when the process has ended
    os.close(pidfd)
    assert ended
