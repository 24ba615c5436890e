"""A real S3 API on this machine: moto's server in a process of its own, which a test may kill."""

from __future__ import annotations

import http.client
import itertools
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import Self
from urllib.parse import quote
from xml.etree import ElementTree as ET

import pytest

_SCRIPT = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(*server.get_host_and_port(), flush=True)
sys.stdin.read()
"""
KEY_ID, SECRET = "AKIDEXAMPLE", "not-to-be-told"
_numbers = itertools.count(1)


class S3Server:
    """Takes any credentials until `check_credentials`. Ends with the process that started it."""

    def __init__(self) -> None:
        command = [sys.executable, "-W", "ignore", "-c", _SCRIPT]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self._process.stdout is not None
        host, _, port = self._process.stdout.readline().strip().partition(" ")
        self.address = f"{host}:{port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        """End it in the middle of whatever it does."""
        self._process.kill()
        self._process.communicate()

    def freeze(self) -> None:
        """From now on answer nobody."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Answer again, those who waited too."""
        self._process.send_signal(signal.SIGCONT)

    def check_credentials(self) -> None:
        """From now on refuse who is not known; nobody is."""
        self.ask("POST", "/moto-api/reset-auth", b"0")

    def trust(self) -> None:
        """Take any credentials again."""
        self.ask("POST", "/moto-api/reset-auth", b"1000000000")

    def ask(self, method: str, path: str, body: bytes = b"") -> bytes:
        """One request, as by somebody whose signature nobody looks at."""
        credentials = f"AWS4-HMAC-SHA256 Credential={KEY_ID}/20260101/us-east-1/s3/aws4_request"
        connection = http.client.HTTPConnection(self.address)
        connection.request(method, quote(path, safe="/?=&"), body, {"Authorization": credentials})
        with connection.getresponse() as answer:
            assert answer.status < 300, (answer.status, answer.read())
            data = answer.read()
        connection.close()
        return data

    def use(self, monkeypatch: pytest.MonkeyPatch) -> Bucket:
        """A new bucket, which this process and its children find by their environment."""
        environment = {
            "AWS_ENDPOINT_URL": f"http://{self.address}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
        }
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        bucket = Bucket(self, f"bucket-{next(_numbers)}")
        self.ask("PUT", f"/{bucket.name}")
        return bucket


@dataclass(frozen=True)
class Bucket:
    """A bucket as its server has it."""

    server: S3Server
    name: str

    @property
    def url(self) -> str:
        """A store in it."""
        return f"s3://{self.name}/engines"

    def keys(self, under: str = "engines/") -> list[str]:
        """Keys of all objects, without the store's prefix."""
        found = self._texts(f"/{self.name}?list-type=2", "Contents")
        return [key.removeprefix(under) for key in found]

    def unfinished(self) -> list[str]:
        """Keys of uploads that were begun, and neither finished nor taken back."""
        return self._texts(f"/{self.name}?uploads", "Upload")

    def read(self, key: str) -> bytes:
        return self.server.ask("GET", f"/{self.name}/engines/{key}")

    def write(self, key: str, data: bytes) -> None:
        self.server.ask("PUT", f"/{self.name}/engines/{key}", data)

    def delete(self, key: str) -> None:
        self.server.ask("DELETE", f"/{self.name}/engines/{key}")

    def _texts(self, path: str, element: str) -> list[str]:
        tree = ET.fromstring(self.server.ask("GET", path))
        return [item.text or "" for item in tree.iterfind(f".//{{*}}{element}/{{*}}Key")]
