"""What a scope covers is what the catalog finds within it, on every database."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.auth.principal import EngineScope
from common.catalog.aliases import Aliases
from common.catalog.catalog import Catalog
from common.db.database import Database
from common.db.paging import read_page
from common.errors import AlreadyExists, NotFound, Reason
from common.store.blob_store import open_store
from common.window import Geometry
from tests.samples.whole_manifests import make_manifest

OWNED = {"a": "ann", "a-b": "bob", "ab": "ann", "b_a": "bob", "b.a": "local", "axa": "ann"}
PATTERNS = st.sampled_from(["a", "ab", "b_a", "a*", "b_*", "b.*", "*", "c", "c*", "a-*"])
OWNERS = st.sampled_from(["ann", "bob", "carl", None])
SCOPES = st.builds(EngineScope, OWNERS, st.lists(PATTERNS, max_size=3).map(tuple))
GEOMETRY = Geometry(sinks=4, window=16, chunk=4, slots=1)


@pytest.fixture
def catalog(database: Database, tmp_path: Path) -> Catalog:
    catalog = Catalog(database, open_store(tmp_path.as_uri()))
    for name, owner in OWNED.items():
        catalog.publish(make_manifest(GEOMETRY, name=name), "test", owner=owner)
    return catalog


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(SCOPES, st.integers(1, 4))
def test_listings_and_look_ups_find_what_a_scope_covers(catalog: Catalog, scope: EngineScope, size: int) -> None:
    found, token = [], ""
    while True:
        engines, token = catalog.list(read_page(size, token, "engines", (str, int)), scope=scope)
        found += [engine.name for engine in engines]
        if not token:
            break
    assert sorted(found) == sorted(name for name, owner in OWNED.items() if scope.covers(name, owner))
    for name, owner in OWNED.items():
        if name in found:
            assert catalog.resolve(name, scope=scope).owner == owner
        else:
            with pytest.raises(NotFound) as caught:
                catalog.resolve(name, scope=scope)
            told = caught.value.message.partition(": ")[2]
            assert not {other for other in OWNED if other not in found} & set(told.replace(",", " ").split())


def test_a_name_stays_its_owners_also_when_nothing_is_left_of_it(catalog: Catalog, database: Database) -> None:
    catalog.delete("a@1")
    with pytest.raises(AlreadyExists) as caught:
        catalog.publish(make_manifest(GEOMETRY, name="a"), "test", owner="bob")
    assert caught.value.reason is Reason.ENGINE_NAME_TAKEN
    assert catalog.publish(make_manifest(GEOMETRY, name="a"), "test", owner="ann").reference == "a@2"
    with pytest.raises(NotFound):
        Aliases(database).set("a", "stable", EngineScope("bob"))
