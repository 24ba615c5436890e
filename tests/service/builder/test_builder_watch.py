"""Watching builds."""

from __future__ import annotations

import asyncio

import pytest

from builder_service.service import BuilderHandle
from sinkserve.builder.v1 import builder_service_pb2 as pb
from tests.fakes.scripted_builds import until
from tests.service.builder.builder import BuilderClient, refused


@pytest.mark.parametrize(
    ("name", "after", "reason"),
    [("builds/1f", None, "BUILD_NOT_FOUND"), ("x", None, "INVALID_FIELD"), ("builds/1f", -1, "INVALID_FIELD")],
)
async def test_a_bad_watch_is_refused(client: BuilderClient, name: str, after: int | None, reason: str) -> None:
    assert (await refused(client.events(name, after))).reason == reason


@pytest.mark.long
async def test_all_watchers_see_the_same_events(client: BuilderClient) -> None:
    build = await client.submit()
    seen = await asyncio.gather(*(client.events(build.name) for _ in range(5)))
    assert all(events == seen[0] for events in seen)
    assert await client.events(build.name) == seen[0], "also after its end"


async def test_a_watch_goes_on_where_another_broke_off(client: BuilderClient) -> None:
    build = await client.submit()
    first: list[pb.WatchBuildResponse] = []
    watch = client.watch(build.name)
    async for event in watch:
        first.append(event)
        if len(first) == 5:
            watch.cancel()
            break
    rest = await client.events(build.name, first[-1].sequence)
    whole = await client.events(build.name)
    assert [*first[1:], *rest] == whole
    assert await client.events(build.name, whole[-1].sequence) == []


async def test_the_first_word_of_a_watch_is_the_build_as_it_is(client: BuilderClient) -> None:
    build = await client.submit()
    await client.builds.CancelBuild(pb.CancelBuildRequest(name=build.name))
    watched = [event async for event in client.watch(build.name, 1000)]
    assert [(event.sequence, event.build) for event in watched] == [(0, await client.get(build.name))]


@pytest.mark.long
async def test_a_watcher_that_leaves_leaves_nothing(client: BuilderClient, builder: BuilderHandle) -> None:
    await client.submit()
    build = await client.submit(client.spec("queued"))
    alone = builder.changes.waiting
    watches = [client.watch(build.name) for _ in range(20)]
    for watch in watches:
        assert (await watch.read()).sequence == 0
    await until(lambda: builder.changes.waiting, lambda waiting: waiting >= alone + len(watches))
    for watch in watches:
        watch.cancel()
    await client.ended(build)
    await until(lambda: builder.changes.waiting, lambda waiting: waiting == 1)  # the worker's own
