"""The catalog as its clients meet it."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from builder_service.service import BuilderHandle
from common.store.blob_store import open_store
from sinkserve.builder.v1 import catalog_service_pb2 as cat
from tests.samples.drafts import Press
from tests.service.builder.builder import BuilderClient, refused

INVALID = grpc.StatusCode.INVALID_ARGUMENT


@pytest.fixture
def press(builder: BuilderHandle, tmp_path: Path) -> Press:
    """Publishes engines without building them."""
    return Press(builder.database, open_store(str(tmp_path / "home" / "store")), tmp_path)


async def test_aliases_are_set_moved_listed_and_deleted(client: BuilderClient, press: Press) -> None:
    press.publish()
    press.publish()
    catalog = client.catalog
    answer = await catalog.SetAlias(cat.SetAliasRequest(reference="demo@1", alias="prod"))
    assert answer.alias == cat.EngineAlias(name="demo", alias="prod", version=1)
    await catalog.SetAlias(cat.SetAliasRequest(reference="demo", alias="prod"))
    assert (await client.engine("demo:prod")).version == 2
    listed = await catalog.ListAliases(cat.ListAliasesRequest(name="demo"))
    assert [(alias.alias, alias.version) for alias in listed.aliases] == [("latest", 2), ("prod", 2)]
    await catalog.DeleteAlias(cat.DeleteAliasRequest(name="demo", alias="prod"))
    assert (await refused(client.engine("demo:prod"))).reason == "ENGINE_NOT_FOUND"
    for alias in ("latest", "17"):
        refusal = await refused(catalog.SetAlias(cat.SetAliasRequest(reference="demo", alias=alias)))
        assert (refusal.code, refusal.reason, refusal.fields) == (INVALID, "INVALID_ALIAS", ["alias"])


async def test_engines_are_listed_by_pages(client: BuilderClient, press: Press) -> None:
    for name in ("b", "a", "b"):
        press.publish(name)
    page = await client.catalog.ListEngines(cat.ListEnginesRequest(page_size=2))
    assert [engine.reference for engine in page.engines] == ["a@1", "b@2"]
    page = await client.catalog.ListEngines(cat.ListEnginesRequest(page_size=2, page_token=page.next_page_token))
    assert [engine.reference for engine in page.engines] == ["b@1"]
    assert not page.next_page_token
    page = await client.catalog.ListEngines(cat.ListEnginesRequest(name="a"))
    assert [engine.reference for engine in page.engines] == ["a@1"]


async def test_a_deleted_engine_takes_along_what_no_other_needs(client: BuilderClient, press: Press) -> None:
    press.publish("a", {"weights.bin": b"shared", "model.onnx": b"one"})
    press.publish("b", {"weights.bin": b"shared", "model.onnx": b"two"})
    await client.catalog.DeleteEngine(cat.DeleteEngineRequest(reference="a@1"))
    verified = await client.catalog.VerifyEngine(cat.VerifyEngineRequest(reference="b"))
    assert (verified.files, verified.size_bytes) == (2, 9)
    await client.catalog.DeleteEngine(cat.DeleteEngineRequest(reference="b@1"))
    assert list(press.store.digests()) == []
    assert press.publish("b").reference == "b@2"


async def test_an_engine_in_use_is_deleted_only_by_force(client: BuilderClient, press: Press) -> None:
    press.catalog.hold(press.publish(), "runtime 127.0.0.1:50071")
    refusal = await refused(client.catalog.DeleteEngine(cat.DeleteEngineRequest(reference="demo@1")))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "ENGINE_IN_USE")
    assert "runtime 127.0.0.1:50071" in refusal.message
    refusal = await refused(client.catalog.DeleteEngine(cat.DeleteEngineRequest(reference="demo", force=True)))
    assert (refusal.code, refusal.fields) == (INVALID, ["reference"])
    await client.catalog.DeleteEngine(cat.DeleteEngineRequest(reference="demo@1", force=True))
