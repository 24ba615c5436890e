"""What a fork and a rewind do to sessions in memory, and which engines a fork may go on with."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest

from common.auth.quotas import Quotas
from common.errors import AlreadyExists, FailedPrecondition, InvalidArgument, Reason
from common.spec.published_engine import PublishedEngine
from common.window import Geometry
from runtime_service.domain.durability import Durability
from runtime_service.domain.session import Session
from runtime_service.sessions.branches import Branches, check_same_words
from runtime_service.sessions.registry import SessionRegistry
from tests.fakes.session.parts import GEOMETRY, Listening, SessionParts
from tests.samples.session_examples import NOON
from tests.samples.whole_manifests import DIGEST, TEMPLATE, make_manifest

WHO = "local"


class Rows:
    """What is asked of the database: cuts and copies."""

    def __init__(self, parts: SessionParts) -> None:
        self._parts = parts
        self.rewound: list[tuple[str, str, bool]] = []

    def rewind(self, session: Session, turn_id: str, *, drop_turn: bool) -> tuple[Session, list[str]]:
        self.rewound.append((session.session_id, turn_id, drop_turn))
        return replace(session, position=2), ["gone"]

    def fork(self, _source: Session, _turn_id: str, target: Session, _quotas: Quotas) -> Session:
        return self._parts.repository.create(target)


class Bench:
    def __init__(self) -> None:
        self.parts = SessionParts()
        self.registry = SessionRegistry(cast("Any", self.parts), self.parts.shared)
        self.branches = Branches(self.registry, cast("Any", self.parts), cast("Any", None))
        self.rows = Rows(self.parts)
        self.branches._branches = cast("Any", self.rows)


async def test_a_rewind_takes_the_session_from_its_stream_and_drops_its_cache() -> None:
    bench, stream = Bench(), Listening()
    bench.parts.session("a")
    live = await bench.registry.open(WHO, "a")
    live.subscribe(stream)
    rewound = await bench.branches.rewind(WHO, "a", "t", drop_turn=True)
    assert (rewound.position, bench.rows.rewound) == (2, [("a", "t", True)])
    assert (stream.told, bench.registry.live) == ([Reason.SESSION_TAKEN_OVER], [])
    assert (bench.parts.caches.dropped, bench.parts.claims.released[-1]) == (["a"], "a")


async def test_a_rewind_names_a_turn() -> None:
    with pytest.raises(InvalidArgument) as caught:
        await Bench().branches.rewind(WHO, "a", "", drop_turn=False)
    assert caught.value.violations[0].field == "turn_id"


async def test_a_session_of_which_nothing_is_kept_has_no_branches() -> None:
    bench = Bench()
    bench.parts.session("a", durability=Durability.NONE)
    with pytest.raises(FailedPrecondition) as rewinding:
        await bench.branches.rewind(WHO, "a", "t", drop_turn=False)
    with pytest.raises(FailedPrecondition) as forking:
        await bench.branches.fork(WHO, "a", "", "f", "")
    assert {rewinding.value.reason, forking.value.reason} == {Reason.SESSION_NOT_KEPT}


async def test_the_same_fork_again_finds_the_session_and_another_is_refused() -> None:
    bench = Bench()
    bench.parts.session("a")
    fork = await bench.branches.fork(WHO, "a", "", "f", "")
    assert await bench.branches.fork(WHO, "a", "", "f", "") == fork
    with pytest.raises(AlreadyExists) as caught:
        await bench.branches.fork(WHO, "a", "t", "f", "")
    assert caught.value.reason is Reason.SESSION_EXISTS
    other = await bench.branches.fork(WHO, "a", "", "", "")
    assert other.session_id not in {"a", "f"}


async def test_the_id_of_a_fork_is_checked() -> None:
    with pytest.raises(InvalidArgument) as caught:
        await Bench().branches.fork(WHO, "a", "", "Not an id", "")
    assert caught.value.violations[0].field == "session_id"


async def test_a_fork_for_a_smaller_engine_has_no_more_sinks_and_window_than_that() -> None:
    bench = Bench()
    bench.parts.session("a", sink_tokens=4, window_tokens=8)
    small = make_manifest(Geometry(1, 5, 2, 1))
    bench.parts.engine.published = PublishedEngine(small, "sha256:" + "1" * 64, NOON)
    fork = await bench.branches.fork(WHO, "a", "", "f", "demo")
    assert (fork.window.sinks, fork.window.window, fork.engine_digest[-1]) == (1, 5, "1")
    assert not bench.parts.caches.files.put_states, "a cache of another engine is of no use"


@pytest.mark.parametrize(
    ("other", "differs"),
    [
        (make_manifest(GEOMETRY, vocabulary=65), "vocabulary"),
        (make_manifest(GEOMETRY, template=TEMPLATE), "template"),
        (make_manifest(Geometry(1, 2, 1, 1)), ""),
    ],
)
def test_engines_have_to_read_the_same_words(other: Any, differs: str) -> None:
    engine = PublishedEngine(other, DIGEST, NOON)
    if not differs:
        check_same_words(make_manifest(GEOMETRY), engine)
        return
    with pytest.raises(FailedPrecondition, match=f"another {differs} than") as caught:
        check_same_words(make_manifest(GEOMETRY), engine)
    assert caught.value.reason is Reason.ENGINE_INCOMPATIBLE
