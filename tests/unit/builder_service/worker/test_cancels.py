"""Builds that are cancelled, wait for room, or run when the worker stops."""

from __future__ import annotations

import psutil
import pytest

from builder_service.queue.build import State
from builder_service.queue.changes import ANY
from builder_service.worker import worker
from tests.fakes.scripted_builds import HANG, ScriptedBuilds, until


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
