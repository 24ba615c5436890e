"""Builds of one key: they wait for each other, and use what is there."""

from __future__ import annotations

from builder_service.queue.build import State
from common.digest import digest_of
from tests.fakes.scripted_builds import KEY, ScriptedBuilds


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
