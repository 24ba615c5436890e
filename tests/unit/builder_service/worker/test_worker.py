"""The worker with children that follow a script: what it does with every way in which a build can end."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from builder_service.queue.build import State
from builder_service.queue.capability import Capability
from builder_service.queue.changes import ANY
from builder_service.queue.queue import BuildQueue
from builder_service.queue.repository import BuildRepository
from builder_service.worker import attempt as build_run
from builder_service.worker import worker
from common.catalog.blob_claims import claim_blobs
from common.digest import digest_of
from common.errors import Reason
from common.spec.model_spec import ModelSpec, Source
from tests.fakes.scripted_builds import HANG, KEY, ScriptedBuilds, until
from tests.samples.drafts import draft


@pytest.fixture
async def builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ScriptedBuilds]:
    made = ScriptedBuilds(tmp_path, monkeypatch)
    yield made
    for each in made.workers:
        await each.stop()
    made.database.close()


async def test_a_child_that_builds_publishes_an_engine(builds: ScriptedBuilds) -> None:
    build = await builds.ended(
        """
send("progress", stage="RESOLVE", done=1.0)
assert may_build()
send("progress", stage="VERIFY", done=0.5)
assert asks("ask_store", digests=[])
built(MANIFEST)
"""
    )
    assert (build.state, build.engine, build.attempt) == (State.SUCCEEDED, "demo@1", 1)
    assert builds.context.catalog.resolve("demo").manifest.build_key == KEY
    assert builds.leftovers() == []


async def test_a_child_is_told_what_to_build(builds: ScriptedBuilds) -> None:
    build = await builds.ended("say(json.dumps(order)); built(MANIFEST)")
    line = builds.log(build.build_id)[0]
    assert '"uri": "/m"' in line
    assert str(builds.folder / "work" / build.build_id) in line


async def test_what_a_child_may_store_is_claimed_until_it_has_ended(builds: ScriptedBuilds) -> None:
    blob = builds.press.put(b"data")
    builds.script(f"asks('ask_store', digests=[{blob!r}]); say('claimed'); {HANG}")
    build_id = builds.submit()
    await builds.start()
    await builds.logged(build_id, "claimed")
    builds.context.catalog.drop_claims("builds/another")
    assert builds.context.store.has(blob)
    builds.builds.cancel("local", build_id)
    await until(lambda: builds.context.store.has(blob), lambda has: not has)


async def test_a_child_that_says_why_it_failed_is_believed(builds: ScriptedBuilds) -> None:
    build = await builds.ended(
        "send('failed', failure=dict(kind='InvalidArgument', reason='CHECKPOINT_INVALID', message='bad tensor'))"
    )
    assert build.state is State.FAILED
    assert build.failure is not None
    assert (build.failure.kind, build.failure.reason) == ("InvalidArgument", Reason.CHECKPOINT_INVALID)
    assert builds.leftovers() == []


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("print('last words', file=sys.stderr); os._exit(3)", "ended with status 3; its last line: last words"),
        ("os._exit(0)", "ended with status 0"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "killed by SIGKILL"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "killed by SIGSEGV"),
        ("raise ValueError('oh no')", "status 1; its last line: ValueError: oh no"),
        (f"print('not json', flush=True); {HANG}", "not a message"),
        (f"send('unheard of'); {HANG}", "not a message"),
    ],
)
async def test_a_child_that_dies_fails_its_build_with_a_cause(builds: ScriptedBuilds, body: str, said: str) -> None:
    build = await builds.ended(body)
    assert build.state is State.FAILED
    assert build.failure is not None
    assert build.failure.reason is Reason.BUILD_CRASHED
    assert said in build.failure.message
    assert builds.leftovers() == []


async def test_a_child_that_the_kernel_killed_for_memory_says_so(
    builds: ScriptedBuilds, monkeypatch: pytest.MonkeyPatch
) -> None:
    kills = iter(range(100))
    monkeypatch.setattr(build_run, "out_of_memory_kills", lambda: next(kills))
    build = await builds.ended("os.kill(os.getpid(), signal.SIGKILL)")
    assert build.failure is not None
    assert build.failure.reason is Reason.OUT_OF_MEMORY
    assert "memory" in build.failure.message


async def test_a_build_that_fails_harms_no_other(builds: ScriptedBuilds) -> None:
    builds.script("os._exit(3) if order['spec']['name'] == 'bad' else built(MANIFEST)")
    made = [builds.submit(name) for name in ("bad", "good", "bad", "good")]
    await builds.start(concurrency=2)
    ends = [(await builds.until(build_id, State.FAILED, State.SUCCEEDED)).state for build_id in made]
    assert ends == [State.FAILED, State.SUCCEEDED] * 2


async def test_what_a_child_prints_is_the_log(builds: ScriptedBuilds) -> None:
    build = await builds.ended(
        """
say("said")
print("printed", file=sys.stderr)
print("\\n   ", file=sys.stderr)
sys.stderr.buffer.write(b"not \\xff text\\n" + b"x" * 5000)
built(MANIFEST)
sys.stderr.flush()
"""
    )
    lines = builds.log(build.build_id)
    assert {"said", "printed", "not \ufffd text"} <= set(lines)
    assert max(map(len, lines)) == 2000
    assert "" not in lines


async def test_a_child_that_never_stops_talking_is_heard_to_a_point(
    builds: ScriptedBuilds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_run, "MOST_LOG_LINES", 5)
    build = await builds.ended("[say(str(n)) for n in range(50)]; built(MANIFEST)")
    assert build.state is State.SUCCEEDED
    assert builds.log(build.build_id) == ["0", "1", "2", "3", "this was the line 5; no more are kept"]


async def test_cancelling_kills_the_child_and_all_it_started(builds: ScriptedBuilds) -> None:
    builds.script(f"say('pids %d %d' % (os.getpid(), subprocess.Popen(['sleep', '1000']).pid)); {HANG}")
    build_id = builds.submit()
    await builds.start()
    pids = [int(pid) for pid in (await builds.logged(build_id, "pids ")).split()]
    builds.builds.cancel("local", build_id)
    await until(lambda: [pid for pid in pids if _runs(pid)], lambda left: not left)
    await until(builds.leftovers, lambda left: not left)
    assert builds.get(build_id).state is State.CANCELLED


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def test_a_cancelled_build_makes_room_for_the_next(builds: ScriptedBuilds) -> None:
    builds.script(f"({HANG}) if order['spec']['name'] == 'slow' else built(MANIFEST)")
    slow, next_one = builds.submit("slow"), builds.submit("next")
    await builds.start()
    await builds.until(slow, State.RUNNING)
    assert builds.get(next_one).state is State.QUEUED
    builds.builds.cancel("local", slow)
    await builds.until(next_one, State.SUCCEEDED)


async def test_no_more_builds_run_at_once_than_may(builds: ScriptedBuilds, monkeypatch: pytest.MonkeyPatch) -> None:
    take, looks = worker.Worker._take, 0

    async def counted(self: worker.Worker) -> None:
        nonlocal looks
        await take(self)
        looks += 1

    monkeypatch.setattr(worker.Worker, "_take", counted)
    builds.script(f"say('here'); {HANG}")
    made = [builds.submit() for _ in range(3)]
    await builds.start(concurrency=2)
    for build_id in made[:2]:
        await builds.logged(build_id, "here")
    before = looks
    builds.context.changes.notify(ANY)
    await until(lambda: looks, lambda now: now > before)
    assert builds.get(made[2]).state is State.QUEUED


async def test_stopping_puts_running_builds_back_without_counting(builds: ScriptedBuilds) -> None:
    builds.script(f"say('pid %d' % os.getpid()); {HANG}")
    build_id = builds.submit()
    running = await builds.start()
    pid = int(await builds.logged(build_id, "pid "))
    await running.stop()
    assert not _runs(pid)
    assert builds.leftovers() == []
    build = builds.get(build_id)
    assert (build.state, build.attempt) == (State.QUEUED, 0)
    builds.script("built(MANIFEST)")
    await builds.start()
    assert (await builds.until(build_id, State.SUCCEEDED)).attempt == 1


async def test_a_second_build_of_a_key_waits_and_uses_the_first_ones_files(builds: ScriptedBuilds) -> None:
    builds.script(
        """
if not may_build(): sys.exit()
say("building")
while not os.path.exists(order["work"] + "/../../go"): time.sleep(0.01)
built(MANIFEST)
"""
    )
    first = builds.submit("first")
    await builds.start(concurrency=2)
    await builds.logged(first, "building")
    second = builds.submit("second")
    await builds.logged(second, f"waits for builds/{first}")
    await builds.until(second, State.QUEUED)
    (builds.folder / "go").touch()
    await builds.until(first, State.SUCCEEDED)
    build = await builds.until(second, State.SUCCEEDED)
    assert (build.engine, build.attempt) == ("second@1", 1)
    assert "building" not in builds.log(second)
    assert builds.context.catalog.resolve("second").manifest.spec.name == "second"


async def test_a_waiting_build_builds_by_itself_when_the_first_fails(builds: ScriptedBuilds) -> None:
    builds.script(
        """
if not may_build(): sys.exit()
if order["spec"]["name"] == "second": built(MANIFEST); sys.exit()
say("building")
while not os.path.exists(order["work"] + "/../../go"): time.sleep(0.01)
os._exit(3)
"""
    )
    first = builds.submit("first")
    await builds.start(concurrency=2)
    await builds.logged(first, "building")
    second = builds.submit("second")
    await builds.logged(second, "waits for")
    (builds.folder / "go").touch()
    await builds.until(first, State.FAILED)
    await builds.until(second, State.SUCCEEDED)


async def _published_before(builds: ScriptedBuilds) -> str:
    builds.press.publish("old", {"weights.bin": b"weights"}, KEY)
    builds.script("say('building' if may_build() else 'used'); built(MANIFEST)")
    build_id = builds.submit("new")
    await builds.start()
    await builds.until(build_id, State.SUCCEEDED)
    return build_id


async def test_an_engine_of_the_same_key_is_published_under_the_new_name(builds: ScriptedBuilds) -> None:
    build_id = await _published_before(builds)
    engine = builds.context.catalog.resolve("new")
    assert [file.digest for file in engine.manifest.files] == [digest_of(b"weights")]
    assert engine.manifest.spec.name == "new"
    assert "old@1 is the same; its files are used" in builds.log(build_id)
    builds.context.catalog.delete("old@1")
    assert builds.context.catalog.verify("new") == (1, 7)


async def test_an_engine_of_the_same_key_that_broke_is_built_again(builds: ScriptedBuilds) -> None:
    builds.press.publish("old", {"weights.bin": b"weights"}, KEY)
    builds.context.store.delete(digest_of(b"weights"))
    builds.script("assert may_build(); built(MANIFEST)")
    build_id = builds.submit("new")
    await builds.start()
    await builds.until(build_id, State.SUCCEEDED)
    assert builds.context.catalog.resolve("new").manifest.files == ()
    assert any("is missing" in line for line in builds.log(build_id))


def _dead(builds: ScriptedBuilds) -> BuildQueue:
    """The queue of a process that has ended."""
    anything = Capability(folders=(Path("/"),))
    return BuildQueue(builds.database, f"{os.uname().nodename}/1/never:1", anything, lambda _: None, lambda _: False)


OTHER = "from common.db.processes import this_process; print(this_process(), flush=True); input()"


async def test_a_worker_notices_that_another_died(builds: ScriptedBuilds, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "RECOVER_S", 0.0)
    pipe = asyncio.subprocess.PIPE
    other = await asyncio.create_subprocess_exec(sys.executable, "-c", OTHER, stdin=pipe, stdout=pipe)
    assert other.stdout is not None
    name = (await other.stdout.readline()).decode().strip()
    builds.script("built(MANIFEST)")
    spec = ModelSpec(name="demo", source=Source(uri="/m"))
    build_id = BuildRepository(builds.database, name).submit("local", spec).build_id
    assert BuildQueue(builds.database, name, Capability(), lambda _: None).lease_next() is not None
    await builds.start()
    other.kill()
    await other.wait()
    assert (await builds.until(build_id, State.SUCCEEDED)).attempt == 2


async def test_a_worker_takes_up_what_a_dead_one_left(builds: ScriptedBuilds) -> None:
    build_id = builds.submit()
    lease = _dead(builds).lease_next()
    assert lease is not None
    folder = builds.folder / "work" / lease.run
    folder.mkdir(parents=True)
    (folder / "weights.bin").write_bytes(b"half")
    (builds.folder / "work" / "another").mkdir()
    blob = builds.press.put(b"claimed by the dead")
    claim_blobs(builds.database, [blob], f"runs/{lease.run}")
    builds.script("built(MANIFEST)")
    await builds.start()
    build = await builds.until(build_id, State.SUCCEEDED)
    assert build.attempt == 2
    assert builds.leftovers() == []
    assert not builds.context.store.has(blob)


async def test_a_build_that_kills_its_builder_is_given_up(builds: ScriptedBuilds) -> None:
    build_id = builds.submit()
    dead = _dead(builds)
    for _ in range(3):
        assert dead.lease_next() is not None
        dead.requeue_lost()
    build = builds.get(build_id)
    assert build.state is State.FAILED
    assert build.failure is not None
    assert "died 3 times" in build.failure.message


async def test_a_fault_of_ours_fails_the_build_and_not_the_worker(
    builds: ScriptedBuilds, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patched:
        patched.setattr(builds.context.queue, "advance", broken)
        build = await builds.ended(f"send('progress', stage='PLAN', done=0.5); {HANG}")
    assert build.failure is not None
    assert build.failure.reason is Reason.INTERNAL
    assert "ZeroDivision" not in build.failure.message
    builds.script("built(MANIFEST)")
    await builds.until(builds.submit(), State.SUCCEEDED)


async def test_what_is_not_claimed_is_not_published(builds: ScriptedBuilds) -> None:
    manifest = draft(files={"weights.bin": b"never stored"}, build_key=KEY).canonical().decode()
    build = await builds.ended(f"built(json.loads({manifest!r}))")
    assert build.state is State.FAILED
