"""Children that build, fail, die or talk too much: what becomes of their builds."""

from __future__ import annotations

import pytest

from builder_service.queue.build import State
from builder_service.worker import attempt as build_run
from common.errors import Reason
from tests.fakes.scripted_builds import HANG, KEY, ScriptedBuilds, until
from tests.samples.drafts import draft


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
