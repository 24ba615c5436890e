"""What the chart makes of `tls`, with paths and addresses of this machine: a real Envoy, a real runtime, both ask."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sinkserve.client import Client, Retry, tls_credentials
from tests.samples.identity.certificates import Authority
from tests.servers.balancer_programs import find_envoy
from tests.servers.balancers import free_address
from tests.service.runtime.runtime import Bench
from tests.unit.deploy.cluster import render, settings

NOBODY = "127.0.0.1:1"
TLS = {"existingSecret": "certificates", "name": "localhost", "askClients": True}


@contextmanager
def envoy(folder: Path, runtime: str) -> Iterator[str]:
    """Envoy with the chart's files, before one runtime; its address."""
    address, (host, port) = free_address(), runtime.split(":")
    changes = {
        "/etc/envoy": str(folder),
        "/tls/": f"{folder / 'tls'}/",
        "path: /tls}": f"path: {folder / 'tls'}}}",
        "address: sinkserve-runtimes, port_value: 50071": f"address: {host}, port_value: {port}",
        "0.0.0.0, port_value: 50070": f"127.0.0.1, port_value: {address.split(':')[1]}",
        "port_value: 9901": "port_value: 0",
    }
    either = re.compile("|".join(map(re.escape, changes)))
    for name, text in render(tls=TLS)["ConfigMap", "sinkserve-envoy"]["data"].items():
        (folder / name).write_text(either.sub(lambda found: changes[found[0]], text))
    with (folder / "log").open("wb") as log:
        command = (find_envoy(), "--config-path", folder / "envoy.yaml", "--use-dynamic-base-id")
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield address
    finally:
        process.kill()
        process.wait()


async def test_a_turn_goes_through_envoy_with_tls_on_both_sides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path / "authority")
    pair = authority.server()
    (tls := tmp_path / "tls").mkdir()
    for name, path in (("tls.crt", pair.certificate), ("tls.key", pair.key), ("ca.crt", authority.certificate)):
        shutil.copy(path, tls / name)
    monkeypatch.setenv("SINKSERVE_RUNTIME_METRICS_LISTEN", "127.0.0.1:0")
    given = settings(render(tls=TLS), "sinkserve-runtime")
    names = ("tls_certificate", "tls_key", "tls_client_ca")
    files = {name: tls / Path(given[f"SINKSERVE_{name.upper()}"]).relative_to("/tls") for name in names}
    bench = Bench(tmp_path / "home", {}, shared_settings=files)
    bench.publish(owner="cert:server")  # as whom the runtime knows Envoy
    await bench.start()
    credentials = tls_credentials(authority.certificate)
    with envoy(tmp_path, bench.handle.address) as address:
        patient = Client(address, NOBODY, credentials=credentials, retry=Retry(attempts_at_first=20))
        async with patient as sdk, sdk.conversation("demo") as conversation:
            await (await conversation.say("hello", max_new_tokens=3)).wait()
    await bench.stop()
