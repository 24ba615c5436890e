"""Proxies of the environment: not for loopback, and named where nobody answers."""

from __future__ import annotations

import pytest

from common.loopback import is_loopback
from common.rpc.proxy import VARIABLES, proxy_of
from sinkserve.client import Unreachable


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "127.0.0.1", "127.8.9.10", "[::1]"])
def test_this_machine_is_loopback(host: str) -> None:
    assert is_loopback(f"{host}:50071")


@pytest.mark.parametrize("host", ["example.com", "localhost.example.com", "10.0.0.1", "128.0.0.1", "[2001:db8::1]"])
def test_other_machines_are_not(host: str) -> None:
    assert not is_loopback(f"{host}:50071")


@pytest.mark.parametrize("name", VARIABLES)
def test_the_variable_is_named_without_its_password(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "http://me:secret@proxy:3128")
    assert proxy_of("example.com:50071") == f"{name}=http://proxy:3128"
    assert not proxy_of("127.0.0.1:50071")


def test_the_first_variable_that_is_set_decides_even_if_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://last:1")
    monkeypatch.setenv("grpc_proxy", "http://first:1")
    assert proxy_of("example.com:1") == "grpc_proxy=http://first:1"
    monkeypatch.setenv("grpc_proxy", "")
    assert not proxy_of("example.com:1")


@pytest.mark.parametrize(
    ("excepted", "address", "goes"),
    [
        ("other.com, example.com", "runtime.example.com:1", True),
        ("example.org", "runtime.example.com:1", False),
        ("10.0.0.0/8", "10.1.2.3:1", True),
        ("10.0.0.0/8", "11.1.2.3:1", False),
        ("10.0.0.0/8", "example.com:1", False),
        ("", "example.com:1", False),
    ],
)
def test_no_proxy_leaves_addresses_out(
    excepted: str, address: str, goes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy:1")
    monkeypatch.setenv("no_proxy", excepted)
    assert (proxy_of(address) == "") is goes


def test_where_nobody_answers_the_error_names_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    error = Unreachable("example.com:1", "connection refused")
    assert error.proxy == "https_proxy=http://proxy:3128"
    assert error.message == (
        "connection refused (through the proxy https_proxy=http://proxy:3128; no_proxy=example.com goes without)"
    )
    assert Unreachable("127.0.0.1:1", "connection refused").message == "connection refused"
