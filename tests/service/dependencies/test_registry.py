"""Engines through a real registry: to it, from it, what is sent twice, who may, and what goes wrong on the way."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.artifact.errors import RegistrySilent
from common.artifact.model_pack import Layer
from common.artifact.registry.link import RegistryLink
from common.artifact.registry.name import RegistryName
from common.artifact.registry.repository import RegistryRepository
from common.artifact.registry.settings import RegistrySettings
from common.db.schema import open_database
from common.digest import digest_of
from common.store.blob_store import open_store
from tests.samples.drafts import Press
from tests.samples.identity.certificates import Authority
from tests.servers.flaky_proxy import FlakyProxy
from tests.servers.registry.docker_registry import PASSWORD, USER, DockerRegistry
from tests.servers.registry.token_authority import TokenAuthority
from tests.service.cli.shell import Ran, Shell

FILES = {"model.onnx": b"graph", "weights/0.bin": random.Random(1).randbytes(1 << 20), "empty.bin": b""}
WEIGHTS = digest_of(FILES["weights/0.bin"])


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[DockerRegistry]:
    with DockerRegistry(tmp_path / "registry") as registry:
        yield registry


@pytest.fixture
def press(tmp_path: Path) -> Iterator[Press]:
    """An engine in the home that the shell has."""
    (home := tmp_path / "home").mkdir()
    database = open_database(f"sqlite:///{home / 'sinkserve.db'}")
    press = Press(database, open_store(str(home / "store")), tmp_path)
    press.publish(files=FILES)
    yield press
    database.close()


@pytest.fixture
def shell(press: Press, tmp_path: Path) -> Shell:
    shell = Shell("127.0.0.1:1", "127.0.0.1:1", tmp_path)
    shell.environment["DOCKER_CONFIG"] = str(tmp_path / "docker")
    return shell


def there(shell: Shell) -> Path:
    """Another home; what is in it is kept."""
    (home := shell.folder / "there").mkdir(exist_ok=True)
    (config := shell.folder / "there.yaml").write_text(f"home: {home}\n")
    return config


async def take(shell: Shell, name: str, *options: str) -> Ran:
    here = shell.environment.pop("SINKSERVE_HOME")
    ran = await shell.run("engines", "import", name, "--config", str(there(shell)), *options)
    shell.environment["SINKSERVE_HOME"] = here
    return ran


async def test_an_engine_goes_to_a_registry_and_from_there_to_another_home(
    shell: Shell, registry: DockerRegistry
) -> None:
    ran = await shell.run("engines", "export", "demo", f"oci://{registry.address}/team/demo")
    assert (ran.code, f"is oci://{registry.address}/team/demo:demo-1" in ran.out) == (0, True), ran.err
    for _ in range(2):
        ran = await take(shell, f"oci://{registry.address}/team/demo:demo-1")
        assert (ran.code, "is demo@1 here, not signed" in ran.out) == (0, True), ran.err
    assert not list((shell.folder / "there" / "imports").iterdir())
    store = open_store(str(shell.folder / "there" / "store"))
    assert [store.verify(digest_of(data)) for data in FILES.values()] == [len(data) for data in FILES.values()]


async def test_what_is_there_already_is_not_sent_again(shell: Shell, registry: DockerRegistry) -> None:
    name = f"oci://{registry.address}/team/demo"
    assert (await shell.run("engines", "export", "demo", f"{name}:1")).code == 0
    sent = registry.asked("POST")
    assert sent == len(FILES) + 2  # its manifest, and the configuration of the artifact
    assert (await shell.run("engines", "export", "demo", f"{name}:2")).code == 0
    assert registry.asked("POST") == sent
    assert (await take(shell, f"{name}:2")).code == 0


async def test_an_artifact_is_had_by_its_digest(shell: Shell, registry: DockerRegistry) -> None:
    name = f"oci://{registry.address}/team/demo"
    ran = await shell.run("engines", "export", "demo", f"{name}:1")
    digest = ran.out.split()[-1]
    assert (await take(shell, f"{name}@{digest}")).code == 0
    ran = await shell.run("engines", "export", "demo", f"{name}@{digest}")
    assert ran.code == 0, ran.err


async def test_what_is_not_there_is_named(shell: Shell, registry: DockerRegistry) -> None:
    name = f"oci://{registry.address}/team/demo"
    ran = await take(shell, f"{name}:7")
    assert (ran.code, f"has no {name}:7" in ran.err) == (4, True), ran.err
    ran = await take(shell, name)
    assert (ran.code, "names no tag" in ran.err) == (2, True), ran.err
    ran = await take(shell, "oci://UPPER/Case:1")
    assert (ran.code, "names no artifact of a registry" in ran.err) == (2, True), ran.err


async def test_a_blob_that_was_damaged_there_is_refused_and_not_kept(shell: Shell, registry: DockerRegistry) -> None:
    name = f"oci://{registry.address}/team/demo:1"
    assert (await shell.run("engines", "export", "demo", name)).code == 0
    whole = registry.blob(WEIGHTS).read_bytes()
    registry.blob(WEIGHTS).write_bytes(b"?" + whole[1:])
    ran = await take(shell, name)
    assert (ran.code, f"{WEIGHTS} came with digest" in ran.err) == (1, True), ran.err
    registry.blob(WEIGHTS).write_bytes(whole)
    assert (await take(shell, name)).code == 0


async def test_a_file_that_is_damaged_here_is_not_sent(shell: Shell, press: Press, registry: DockerRegistry) -> None:
    path = press.store.local_path(WEIGHTS)
    assert path is not None
    path.chmod(0o600)
    path.write_bytes(b"?" + path.read_bytes()[1:])
    ran = await shell.run("engines", "export", "demo", f"oci://{registry.address}/team/demo:1")
    assert (ran.code, "STORE_CORRUPT" in ran.err, WEIGHTS in ran.err) == (1, True, True), ran.err
    assert not registry.blob(WEIGHTS).exists()


async def test_who_asks_is_said_by_variables_or_as_docker_has_it(shell: Shell, tmp_path: Path) -> None:
    with DockerRegistry(tmp_path / "asking", asks=True) as registry:
        name = f"oci://{registry.address}/team/demo:1"
        ran = await shell.run("engines", "export", "demo", name)
        assert (ran.code, "wants to know who asks" in ran.err, "docker login" in ran.err) == (1, True, True), ran.err
        known = {"SINKSERVE_REGISTRY_USERNAME": USER, "SINKSERVE_REGISTRY_PASSWORD": PASSWORD}
        shell.environment |= known
        assert (await shell.run("engines", "export", "demo", name)).code == 0
        shell.environment["SINKSERVE_REGISTRY_PASSWORD"] = "wrong-guess"
        ran = await take(shell, name)
        assert (ran.code, "wrong-guess" in ran.err) == (1, False), ran.err
        for variable in known:
            del shell.environment[variable]
        auth = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        _write_docker_config(tmp_path, {"auths": {registry.address: {"auth": auth}}})
        assert (await take(shell, name)).code == 0


async def test_a_credential_helper_is_asked(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper = tmp_path / "docker-credential-test"
    helper.write_text(f'#!/bin/sh\ncat >&2; echo \'{{"Username": "{USER}", "Secret": "{PASSWORD}"}}\'\n')
    helper.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    shell.environment["PATH"] = os.environ["PATH"]
    with DockerRegistry(tmp_path / "asking", asks=True) as registry:
        _write_docker_config(tmp_path, {"credHelpers": {registry.address: "test"}})
        ran = await shell.run("engines", "export", "demo", f"oci://{registry.address}/team/demo:1")
        assert ran.code == 0, ran.err


async def test_tls_with_an_authority_of_ones_own(shell: Shell, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "certificates")
    with DockerRegistry(tmp_path / "secret", tls=authority.server()) as registry:
        name = f"oci://{registry.address}/team/demo:1"
        ran = await shell.run("engines", "export", "demo", name, "--ca", str(authority.certificate))
        assert ran.code == 0, ran.err
        other = Authority(tmp_path / "others").certificate
        ran = await take(shell, name, "--ca", str(other))
        assert (ran.code, "certificate of the registry" in ran.err, "--ca FILE" in ran.err) == (1, True, True), ran.err
        ran = await take(shell, name)  # in the clear, as on the loopback
        assert (ran.code, "HTTP request to an HTTPS server" in ran.err) == (1, True), ran.err


async def test_a_registry_without_tls_is_told_so(shell: Shell, registry: DockerRegistry, tmp_path: Path) -> None:
    ca = Authority(tmp_path / "certificates").certificate
    ran = await take(shell, f"oci://{registry.address}/team/demo:1", "--ca", str(ca))
    assert (ran.code, "does not speak TLS" in ran.err) == (1, True), ran.err


async def test_a_token_of_the_registrys_authority_opens_it(shell: Shell, tmp_path: Path) -> None:
    with TokenAuthority(tmp_path / "authority") as tokens:
        auth = {"realm": tokens.url, "service": "registry", "issuer": "authority", "rootcertbundle": str(tokens.root)}
        with DockerRegistry(tmp_path / "asking", token=auth) as registry:
            name = f"oci://{registry.address}/team/demo:1"
            ran = await shell.run("engines", "export", "demo", name)
            assert (ran.code, "a token for team/demo" in ran.err) == (1, True), ran.err
            shell.environment |= {"SINKSERVE_REGISTRY_USERNAME": USER, "SINKSERVE_REGISTRY_PASSWORD": PASSWORD}
            assert (await shell.run("engines", "export", "demo", name)).code == 0
            assert (await take(shell, name)).code == 0
            assert tokens.scopes == {"repository:team/demo:pull,push", "repository:team/demo:pull"}


def _write_docker_config(folder: Path, config: object) -> None:
    (folder / "docker").mkdir(exist_ok=True)
    (folder / "docker" / "config.json").write_text(json.dumps(config))


class Cut:
    """A repository behind a proxy that cuts connections."""

    def __init__(self, address: str) -> None:
        self._name = RegistryName.parse(f"oci://{address}/team/demo:1")

    async def copy(self, press: Press) -> None:
        def copy() -> None:
            with RegistryLink(self._name, RegistrySettings(timeout_s=4), "pull,push") as link:
                RegistryRepository(link).copy(press.store, Layer("weights", WEIGHTS, 1 << 20))

        await asyncio.to_thread(copy)

    async def fetch(self, path: Path) -> None:
        def fetch() -> None:
            with RegistryLink(self._name, RegistrySettings(timeout_s=4), "pull") as link:
                RegistryRepository(link).fetch(WEIGHTS, 1 << 20, path)

        await asyncio.to_thread(fetch)


async def test_a_blob_whose_connection_is_cut_goes_on_where_it_was(
    press: Press, registry: DockerRegistry, tmp_path: Path
) -> None:
    async with FlakyProxy(registry.address, [300_000, None], of_requests=True) as proxy:
        await Cut(proxy.address).copy(press)
        assert proxy.cuts == 1
    assert registry.blob(WEIGHTS).read_bytes() == FILES["weights/0.bin"]
    async with FlakyProxy(registry.address, [300_000, 500_000, None]) as proxy:
        await Cut(proxy.address).fetch(tmp_path / "weights")
        assert proxy.cuts == 2
    assert (tmp_path / "weights").read_bytes() == FILES["weights/0.bin"]


async def test_what_has_arrived_is_kept_for_the_next_run(
    press: Press, registry: DockerRegistry, tmp_path: Path
) -> None:
    await Cut(registry.address).copy(press)
    async with FlakyProxy(registry.address, [300_000, *[0] * 10]) as proxy:
        with pytest.raises(RegistrySilent, match="broke off"):
            await Cut(proxy.address).fetch(tmp_path / "weights")
    arrived = (tmp_path / "weights.part").stat().st_size
    assert 200_000 < arrived < 300_000
    async with FlakyProxy(registry.address, [(1 << 20) - arrived + 4096]) as proxy:
        await Cut(proxy.address).fetch(tmp_path / "weights")  # or the proxy would have cut it
        assert proxy.cuts == 0
