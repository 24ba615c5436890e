"""Engines are loaded once, held while they are, and unloaded when their turns allow it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest

from common.errors import FailedPrecondition, NotFound, Reason, ResourceExhausted, Unavailable
from common.spec.published_engine import PublishedEngine
from common.window import Geometry
from runtime_service.decoding.text import Text
from runtime_service.engines.loaded_engine import LoadedEngine
from runtime_service.engines.loader import Loaded
from runtime_service.engines.registry import REFUSED_KEPT, EngineRegistry, WhenBusy
from runtime_service.settings import RuntimeSettings
from tests.fakes.engine import FakeEngine
from tests.samples.session_examples import NOON
from tests.samples.whole_manifests import make_manifest

GEOMETRY = Geometry(sinks=2, window=8, chunk=4, slots=2)


@dataclass
class Catalog:
    """What names an engine; who holds which."""

    names: dict[str, PublishedEngine] = field(default_factory=dict)
    held: list[str] = field(default_factory=list)

    def resolve(self, reference: str, _field: str = "", _scope: object = None) -> PublishedEngine:
        if reference not in self.names:
            raise NotFound(Reason.ENGINE_NOT_FOUND, f"no engine {reference}")
        return self.names[reference]

    def hold(self, published: PublishedEngine, _holder: str) -> None:
        self.held.append(published.reference)

    def release(self, published: PublishedEngine, _holder: str) -> None:
        self.held.remove(published.reference)


class Bench:
    """`loaded` are engines in the order of loading; `failure` is raised by the next load."""

    def __init__(self) -> None:
        self.catalog = Catalog()
        self.loaded: list[FakeEngine] = []
        self.failure: Exception | None = None
        self.evacuated: list[LoadedEngine] = []
        self.engines = self.make()

    def make(self, **settings: Any) -> EngineRegistry:
        return EngineRegistry(cast("Any", self.catalog), self._load, RuntimeSettings(**settings), "me")

    def publish(self, version: int = 1) -> PublishedEngine:
        """NAME@VERSION, which NAME names from now on."""
        manifest = make_manifest(GEOMETRY).model_copy(update={"version": version})
        published = PublishedEngine(manifest, f"sha256:{version:064}", NOON)
        self.catalog.names |= dict.fromkeys(("demo", "demo:latest", f"demo@{version}"), published)
        return published

    async def evacuate(self, engine: LoadedEngine) -> None:
        self.evacuated.append(engine)

    def _load(self, published: PublishedEngine) -> Loaded:
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure
        self.loaded.append(FakeEngine(GEOMETRY))
        return Loaded(self.loaded[-1], Text(None, published.manifest))


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    yield bench
    await bench.engines.stop()
    assert bench.catalog.held == []
    assert all(engine.closed for engine in bench.loaded)


async def test_an_engine_is_loaded_once_and_held(bench: Bench) -> None:
    published = bench.publish()
    first, second = await asyncio.gather(bench.engines.load(published), bench.engines.load(published))
    assert first is second
    assert (len(bench.loaded), bench.catalog.held) == (1, ["demo@1"])


async def test_an_engine_that_cannot_be_loaded_is_not_held(bench: Bench) -> None:
    bench.failure = ValueError("no room")
    with pytest.raises(ValueError, match="no room"):
        await bench.engines.load(bench.publish())
    assert (bench.catalog.held, bench.engines.loaded) == ([], [])


async def test_an_engine_that_was_refused_is_told_until_it_is_loaded(bench: Bench) -> None:
    published, error = bench.publish(), FailedPrecondition(Reason.ENGINE_UNVERIFIED, "it computes something else")
    bench.failure = error
    with pytest.raises(FailedPrecondition, match="something else"):
        await bench.engines.load(published)
    (refused,) = bench.engines.refused
    assert (refused.published, refused.error) == (published, error)
    await bench.engines.load(published)
    assert bench.engines.refused == []


async def test_only_so_many_refusals_are_kept_and_the_oldest_go_first(bench: Bench) -> None:
    for version in range(1, REFUSED_KEPT + 2):
        bench.failure = FailedPrecondition(Reason.ENGINE_UNVERIFIED, "no")
        with pytest.raises(FailedPrecondition):
            await bench.engines.load(bench.publish(version))
    assert {refused.published.version for refused in bench.engines.refused} == {*range(2, REFUSED_KEPT + 2)}


@pytest.mark.parametrize("on_demand", [True, False])
async def test_an_engine_that_is_not_loaded_serves_on_demand_only(bench: Bench, *, on_demand: bool) -> None:
    bench.engines = bench.make(load_on_demand=on_demand)
    published = bench.publish()
    if on_demand:
        assert (await bench.engines.serving(published)).published is published
        return
    with pytest.raises(FailedPrecondition) as caught:
        await bench.engines.serving(published)
    assert caught.value.reason is Reason.ENGINE_NOT_LOADED


async def test_a_reference_that_names_nothing_is_named_with_its_field(bench: Bench) -> None:
    with pytest.raises(NotFound, match="^open.session: no engine none") as caught:
        await bench.engines.resolve("none", "open.session")
    assert caught.value.reason is Reason.ENGINE_NOT_FOUND


async def test_new_sessions_get_another_version_once_it_is_loaded(bench: Bench) -> None:
    bench.publish(1)
    await bench.engines.prepare(["demo"])
    bench.publish(2)
    assert (await bench.engines.named("demo", "engine")).version == 1
    bench.failure = ValueError("not yet")
    with pytest.raises(ValueError, match="not yet"):
        await bench.engines.follow()
    assert (await bench.engines.named("demo", "engine")).version == 1
    await bench.engines.follow()
    assert (await bench.engines.named("demo", "engine")).version == 2
    assert [engine.published.version for engine in bench.engines.loaded] == [1, 2]


async def test_a_new_version_that_is_refused_is_tried_again_after_a_while(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.publish(1)
    await bench.engines.prepare(["demo"])
    bench.publish(2)
    bench.failure = FailedPrecondition(Reason.ENGINE_UNVERIFIED, "it computes something else")
    with pytest.raises(FailedPrecondition):
        await bench.engines.follow()
    await bench.engines.follow()  # it would be loaded now
    assert (await bench.engines.named("demo", "engine")).version == 1
    monkeypatch.setattr("runtime_service.engines.registry.REFUSED_AGAIN_S", 0.0)
    await bench.engines.follow()
    assert (await bench.engines.named("demo", "engine")).version == 2


async def test_a_new_version_for_which_the_store_was_away_is_tried_again_at_once(bench: Bench) -> None:
    bench.publish(1)
    await bench.engines.prepare(["demo"])
    bench.publish(2)
    bench.failure = Unavailable(Reason.STORE_UNAVAILABLE, "the store is away")
    with pytest.raises(Unavailable):
        await bench.engines.follow()
    await bench.engines.follow()
    assert (await bench.engines.named("demo", "engine")).version == 2


async def test_who_comes_while_the_engines_of_the_settings_are_loaded_waits(bench: Bench) -> None:
    published = bench.publish()
    preparing = asyncio.create_task(bench.engines.prepare(["demo"]))
    await asyncio.sleep(0)
    engine = await bench.engines.serving(published)
    await preparing
    assert bench.engines.loaded == [engine]


async def test_an_engine_with_turns_is_not_unloaded(bench: Bench) -> None:
    engine = await bench.engines.load(published := bench.publish())
    with engine.in_use(), pytest.raises(FailedPrecondition) as caught:
        await bench.engines.unload(published, bench.evacuate)
    assert caught.value.reason is Reason.ENGINE_IN_USE
    assert (bench.evacuated, engine.closed, bench.engines.loaded) == ([], False, [engine])


async def test_an_engine_is_unloaded_when_its_turns_have_ended(bench: Bench) -> None:
    engine = await bench.engines.load(published := bench.publish())
    engine.add_turns(2)
    unloading = asyncio.create_task(bench.engines.unload(published, bench.evacuate, WhenBusy.WAIT))
    for _ in range(2):
        await asyncio.sleep(0)
        assert (engine.closed, bench.evacuated) == (True, [])
        engine.add_turns(-1)
    await unloading
    assert (bench.evacuated, bench.loaded[0].closed, bench.catalog.held) == ([engine], True, [])
    with pytest.raises(FailedPrecondition) as caught:
        await bench.engines.unload(published, bench.evacuate)
    assert caught.value.reason is Reason.ENGINE_NOT_LOADED


async def test_an_engine_that_has_to_go_takes_its_turns_with_it(bench: Bench) -> None:
    engine = await bench.engines.load(published := bench.publish())
    engine.add_turns(1)
    await bench.engines.unload(published, bench.evacuate, WhenBusy.EVICT)
    assert (bench.evacuated, bench.loaded[0].closed) == ([engine], True)


async def test_an_engine_that_leaves_is_not_loaded_again_before_it_is_gone(bench: Bench) -> None:
    published, leaves, may_go = bench.publish(), asyncio.Event(), asyncio.Event()
    await bench.engines.load(published)

    async def evacuate(_engine: LoadedEngine) -> None:
        leaves.set()
        await may_go.wait()

    unloading = asyncio.create_task(bench.engines.unload(published, evacuate))
    await leaves.wait()
    with pytest.raises(Unavailable) as caught:
        await bench.engines.load(published)
    assert caught.value.reason is Reason.ENGINE_NOT_LOADED
    may_go.set()
    await unloading
    assert (await bench.engines.load(published)).published is published


async def test_turns_wait_up_to_a_bound(bench: Bench) -> None:
    engine = await bench.engines.load(bench.publish())
    engine.add_turns(GEOMETRY.slots + 1)
    engine.check_room(2)
    with pytest.raises(ResourceExhausted) as caught:
        engine.check_room(1)
    assert caught.value.reason is Reason.CAPACITY_EXHAUSTED
    engine.add_turns(-engine.turns)


async def test_an_engine_is_known_by_its_digest(bench: Bench) -> None:
    published = bench.publish()
    engine = await bench.engines.load(published)
    renamed = replace(published, aliases=("prod",))
    assert await bench.engines.load(renamed) is engine
