"""Envoy, nginx and HAProxy for tests, with the files of `deploy/`: addresses are put in, no more is changed."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import subprocess
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import psutil
import yaml

from tests.servers.balancer_programs import find_envoy, find_haproxy, find_nginx
from tests.servers.nameserver import NameServer

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
KINDS = ("envoy", "nginx", "haproxy")


class Balancer(ABC):
    """A process that listens at `address` for as long as the test runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = free_address()
        self.everyone: Sequence[str] = ()
        """Where replicas may be, and the port that says whether they are ready."""
        self.metrics_port = ""
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    async def serve(self, replicas: Sequence[str]) -> None:
        """Balance over the replicas at these addresses from now on; the first time, start."""

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()

    def _start(self, *command: str) -> None:
        with (self.folder / "balancer.log").open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)

    async def _until_it_listens(self, address: str) -> None:
        host, port = address.split(":")
        while True:
            assert self._process is not None
            assert self._process.poll() is None, (self.folder / "balancer.log").read_text()
            try:
                socket.create_connection((host, int(port))).close()
            except ConnectionRefusedError:
                await asyncio.sleep(0.05)
            else:
                return


class Envoy(Balancer):
    """It finds replicas by name, and asks how they are.

    `pieces` are those of `deploy/envoy/` that it has, by name, each with what is put in. Certificates are in `tls`.
    """

    def __init__(self, folder: Path, pieces: Mapping[str, dict[str, str]] | None = None) -> None:
        super().__init__(folder)
        self.tls = folder / "tls"
        self._pieces = pieces or {}
        self._program = find_envoy()
        self._names = NameServer()
        self.page_port = int(free_address().split(":")[1])
        self._admin = free_address()

    async def serve(self, replicas: Sequence[str]) -> None:
        self._names.addresses = [replica.split(":")[0] for replica in replicas]
        if self._process is None:
            config = self._configured(replicas[0].split(":")[1])
            resolver = json.dumps({"typed_dns_resolver_config": self._resolver()})
            # Without a base id of its own it would share memory with another Envoy of this machine.
            more = ("--use-dynamic-base-id", "--concurrency", "2", "--config-yaml", resolver)
            self._start(str(self._program), "-c", str(config), *more)
            await self._until_it_listens(self.address)

    async def health(self) -> dict[str, str]:
        """Of each replica that it knows, by address."""
        url = f"http://{self._admin}/clusters?format=json"
        read = await asyncio.to_thread(lambda: urllib.request.urlopen(url).read())
        found: dict[str, str] = {}
        for cluster in json.loads(read)["cluster_statuses"]:
            for host in cluster.get("host_statuses", ()):
                where = host["address"]["socket_address"]
                status = host["health_status"]
                failed = [name for name in ("failed_active_health_check", "failed_outlier_check") if status.get(name)]
                found[f"{where['address']}:{where['port_value']}"] = failed[0] if failed else "healthy"
        return found

    def stop(self) -> None:
        super().stop()
        self._names.stop()

    def _configured(self, port: str) -> Path:
        origin = f"http://127.0.0.1:{self.page_port}"
        listen, admin = self.address.split(":")[1], self._admin.split(":")[1]
        changes = {": 9901": f": {admin}", ": 50070": f": {listen}", ": 50071": f": {port}", "0.0.0.0": "127.0.0.1"}
        changes |= {"https://chat.example.com": origin}
        whole = yaml.safe_load(_put_in((DEPLOY / "envoy.yaml").read_text(), changes))
        for name, put_in in self._pieces.items():
            piece = _put_in((DEPLOY / "envoy" / f"{name}.yaml").read_text(), put_in)
            whole = _merged(whole, yaml.safe_load(piece.replace("/etc/envoy", str(self.folder))))
        if "tls" in self._pieces:
            self._write_secrets()
        path = self.folder / "envoy.yaml"
        path.write_text(yaml.safe_dump(whole))
        return path

    def _write_secrets(self) -> None:
        (self.folder / "secrets").mkdir()
        for path in (DEPLOY / "envoy" / "secrets").iterdir():
            text = path.read_text().replace("/etc/envoy", str(self.folder))
            (self.folder / "secrets" / path.name).write_text(text)

    def _resolver(self) -> dict[str, Any]:
        kind = "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig"
        where = {"socket_address": {"address": "127.0.0.1", "port_value": self._names.port}}
        return {"name": "envoy.network.dns_resolver.cares", "typed_config": {"@type": kind, "resolvers": [where]}}


class Nginx(Balancer):
    """Its file names the replicas; with another file it is told to read it again."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._program = find_nginx()

    async def serve(self, replicas: Sequence[str]) -> None:
        config = self._configured(replicas)
        if self._process is None:
            more = f"daemon off; pid {self.folder / 'nginx.pid'};"
            self._start(str(self._program), "-c", str(config), "-g", more)
            await self._until_it_listens(self.address)
        else:
            await self._reload(psutil.Process(self._process.pid))

    def _configured(self, replicas: Sequence[str]) -> Path:
        lines = (DEPLOY / "nginx.conf").read_text().splitlines()
        servers = [index for index, line in enumerate(lines) if line.strip().startswith("server runtime-")]
        assert len(servers) >= len(replicas)
        for index, replica in zip(servers, replicas, strict=False):
            name = lines[index].split()[1]
            lines[index] = lines[index].replace(name, replica)
        for index in reversed(servers[len(replicas) :]):
            del lines[index]
        changes = {"listen 50070": f"listen {self.address}", "/tmp/": f"{self.folder}/"}
        path = self.folder / "nginx.conf"
        path.write_text(_put_in("\n".join(lines), changes))
        return path

    async def _reload(self, master: psutil.Process) -> None:
        """Returns when the workers of before take no more connections."""
        before = master.children()
        master.send_signal(signal.SIGHUP)
        while any(_takes_connections(worker) for worker in before):  # noqa: ASYNC110 - they are other processes
            await asyncio.sleep(0.05)


class HAProxy(Balancer):
    """Its file names all replicas that there may be, and it asks how they are."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._program = find_haproxy()

    async def serve(self, replicas: Sequence[str]) -> None:
        assert set(replicas) <= set(self.everyone)
        if self._process is None:
            self._start(str(self._program), "-db", "-f", str(self._configured()))
            await self._until_it_listens(self.address)

    def _configured(self) -> Path:
        changes = {"0.0.0.0:50070": self.address, "port 9471": f"port {self.metrics_port}"}
        changes |= {f" runtime-{number}:50071": f" {address}" for number, address in enumerate(self.everyone, 1)}
        path = self.folder / "haproxy.cfg"
        path.write_text(_put_in((DEPLOY / "haproxy.cfg").read_text(), changes))
        return path


def _merged(whole: Any, piece: Any) -> Any:
    """A piece over the whole, as `yq '. *d load(...)'` does it: lists by place."""
    if isinstance(whole, dict) and isinstance(piece, dict):
        return whole | {key: _merged(whole.get(key), value) for key, value in piece.items()}
    if isinstance(whole, list) and isinstance(piece, list):
        return [_merged(mine, its) if its is not None else mine for mine, its in zip_longest(whole, piece)]
    return piece


def _takes_connections(worker: psutil.Process) -> bool:
    try:
        return "shutting down" not in " ".join(worker.cmdline()) and worker.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def free_address(host: str = "127.0.0.1") -> str:
    with socket.create_server((host, 0)) as free:
        return f"{host}:{free.getsockname()[1]}"


def _put_in(text: str, changes: dict[str, str]) -> str:
    """At once: what is put in may look like what is replaced."""
    missing = [before for before in changes if before not in text]
    assert not missing, missing
    return re.sub("|".join(map(re.escape, changes)), lambda found: changes[found[0]], text)
