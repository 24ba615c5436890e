"""The door for HTTP in the chart: reached by its names, with nobody's rights, and let through to the services."""

from __future__ import annotations

from typing import Any

import pytest

from sinkserve.client.settings import ClientSettings
from sinkserve.web.settings import WebSettings
from tests.unit.deploy.cluster import Objects, container, render, settings

DOOR = {"app.kubernetes.io/name": "sinkserve", "app.kubernetes.io/instance": "sinkserve"}


def door(monkeypatch: pytest.MonkeyPatch, **values: Any) -> Objects:
    """The chart with a door, whose settings this process has."""
    objects = render(**{"web": {"enabled": True}, **values})
    for name, value in settings(objects, "sinkserve-web").items():
        monkeypatch.setenv(name, value)
    return objects


def address(objects: Objects, name: str, port: str) -> str:
    """Of a Service."""
    (found,) = [each for each in objects["Service", name]["spec"]["ports"] if each["name"] == port]
    return f"{name}:{found['port']}"


def test_there_is_none_unless_it_is_wanted() -> None:
    assert not [name for _, name in render() if "web" in name]


@pytest.mark.parametrize("runtime", ["sinkserve", "sinkserve-runtimes"])
def test_it_finds_the_services_of_the_release(monkeypatch: pytest.MonkeyPatch, runtime: str) -> None:
    objects = door(monkeypatch, envoy={"enabled": runtime == "sinkserve"})
    found = ClientSettings.load()
    assert found.runtime == address(objects, runtime, "grpc")
    assert found.builder == address(objects, "sinkserve-builder", "grpc")
    assert not found.ca


def test_it_speaks_to_them_as_they_want_to_be_spoken_to(monkeypatch: pytest.MonkeyPatch) -> None:
    objects = door(monkeypatch, tls={"existingSecret": "certificates", "askClients": True})
    found = ClientSettings.load()
    assert [str(each) for each in (found.ca, found.cert, found.key)] == ["/tls/ca.crt", "/tls/tls.crt", "/tls/tls.key"]
    mounts = {each["mountPath"] for each in container(objects, "sinkserve-web")["volumeMounts"]}
    assert "/tls" in mounts


@pytest.mark.parametrize("encrypted", [False, True])
def test_probes_are_let_in_by_the_names_that_are_taken(monkeypatch: pytest.MonkeyPatch, encrypted: bool) -> None:
    tls = {"existingSecret": "public" if encrypted else ""}
    objects = door(monkeypatch, web={"enabled": True, "hosts": ["chat.example.com"], "tls": tls})
    taken = WebSettings.load()
    assert {"chat.example.com", "sinkserve-web", "sinkserve-web.chat.svc", "localhost"} <= set(taken.allowed_hosts)
    found = container(objects, "sinkserve-web")
    probes = {each: found[each]["httpGet"] for each in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert [probe["path"] for probe in probes.values()] == ["/livez", "/livez", "/readyz"]
    for probe in probes.values():
        (host,) = probe["httpHeaders"]
        assert host["name"] == "Host"
        assert host["value"] in taken.allowed_hosts
        assert probe["scheme"] == ("HTTPS" if taken.tls_certificate else "HTTP")


@pytest.mark.parametrize("anonymous", ["allow", "refuse"])
def test_it_asks_for_keys_where_the_services_do_and_offers_no_administration(
    monkeypatch: pytest.MonkeyPatch, anonymous: str
) -> None:
    door(monkeypatch, auth={"anonymous": anonymous})
    assert (WebSettings.load().takes_anonymous, WebSettings.load().offers_admin) == (anonymous == "allow", False)


def test_it_has_no_secrets_of_the_services(monkeypatch: pytest.MonkeyPatch) -> None:
    objects = door(
        monkeypatch,
        store={"url": "s3://engines", "existingSecret": "bucket"},
        auth={"anonymous": "allow", "existingSecret": "callers"},
    )
    assert not {"bucket", "callers", "database"} & set(_texts(objects["Deployment", "sinkserve-web"]))


def test_who_is_let_through_to_the_services_is_named_beside_it() -> None:
    others = [{"podSelector": {"matchLabels": {"app": "ci"}}}]
    policy = {"clientsFrom": others, "builderFrom": others, "webFrom": others}
    for envoy in ("envoy", "runtime"):
        objects = render(web={"enabled": True}, networkPolicy=policy, envoy={"enabled": envoy == "envoy"})
        for component in (envoy, "builder"):
            first = objects["NetworkPolicy", f"sinkserve-{component}"]["spec"]["ingress"][0]
            door = {"podSelector": {"matchLabels": {**DOOR, "app.kubernetes.io/component": "web"}}}
            assert first["from"] == [*others, door]
        assert objects["NetworkPolicy", "sinkserve-web"]["spec"]["ingress"][0]["from"] == others


def test_its_metrics_are_not_published_with_it() -> None:
    objects = render(web={"enabled": True, "service": {"type": "LoadBalancer"}})
    assert [each["name"] for each in objects["Service", "sinkserve-web"]["spec"]["ports"]] == ["http"]
    assert objects["Service", "sinkserve-web-metrics"]["spec"]["clusterIP"] == "None"


def test_a_route_leads_to_it_by_its_names_and_waits_for_long_replies() -> None:
    route = {"enabled": True, "parents": [{"name": "public"}]}
    objects = render(web={"enabled": True, "hosts": ["chat.example.com"], "route": route})
    spec = objects["HTTPRoute", "sinkserve-web"]["spec"]
    (rule,) = spec["rules"]
    assert (spec["hostnames"], rule["timeouts"]) == (["chat.example.com"], {"request": "0s"})
    (backend,) = rule["backendRefs"]
    assert f"{backend['name']}:{backend['port']}" == address(objects, "sinkserve-web", "http")


def _texts(value: object) -> list[str]:
    if isinstance(value, dict):
        return [text for each in value.values() for text in _texts(each)]
    if isinstance(value, list):
        return [text for each in value for text in _texts(each)]
    return [value] if isinstance(value, str) else []
