"""The chart is what Kubernetes takes, whatever its values, and says nothing else than the files that are tested."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from helm_python.chart import lint
from helm_python.errors import HelmError

from builder_service.settings import BuilderSettings
from common.settings import Settings, SharedSettings
from runtime_service.settings import RuntimeSettings
from sinkserve.client.settings import ClientSettings
from sinkserve.web.settings import WebSettings
from tests.unit.deploy.cluster import CHART, DEPLOY, LEAST, container, render, settings
from tests.unit.deploy.of_others import OF_OTHERS, complaints

VALUES: dict[str, dict[str, Any]] = {
    "least": {},
    "without a balancer": {"envoy": {"enabled": False}},
    "without builders": {"builder": {"enabled": False}},
    "engines by name": {"runtime": {"engines": ["chat", "other:stable"], "loadOnDemand": False}},
    "a GPU": {
        "runtime": {
            "gpus": 1,
            "image": "sinkserve-runtime-gpu",
            "nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-L4"},
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        }
    },
    "scaled by an adapter": {"autoscaling": {"enabled": True}},
    "scaled by KEDA": {"autoscaling": {"enabled": True, "kind": "keda"}},
    "a store on a volume": {
        "store": {"url": "file:///shared/store", "volume": {"persistentVolumeClaim": {"claimName": "engines"}}}
    },
    "a store with credentials": {"store": {"url": "s3://engines", "existingSecret": "bucket"}},
    "checkpoints on a volume": {"builder": {"models": {"persistentVolumeClaim": {"claimName": "models"}}}},
    "a gateway and pages": {
        "gateway": {"enabled": True, "parents": [{"name": "public"}], "hostnames": ["chat.example.com"]},
        "envoy": {"origins": ["https://chat.example.com", "http://localhost:8000"]},
    },
    "a door for browsers": {
        "web": {
            "enabled": True,
            "hosts": ["chat.example.com"],
            "route": {"enabled": True, "parents": [{"name": "public"}]},
        },
        "metrics": {"serviceMonitor": {"enabled": True}},
    },
    "a door with certificates": {
        "web": {"enabled": True, "tls": {"existingSecret": "public"}, "service": {"type": "LoadBalancer", "port": 443}},
        "tls": {"existingSecret": "certificates", "askClients": True},
    },
    "a door without a balancer": {
        "web": {"enabled": True, "env": [{"name": "SINKSERVE_WEB_ADMIN", "value": "allow"}]},
        "envoy": {"enabled": False},
        "builder": {"enabled": False},
    },
    "watched": {"metrics": {"serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}}}},
    "closed": {
        "networkPolicy": {
            "clientsFrom": [{"namespaceSelector": {"matchLabels": {"name": "apps"}}}],
            "builderFrom": [{"podSelector": {"matchLabels": {"app": "ci"}}}],
        },
        "metrics": {"from": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}]},
    },
    "callers with keys": {
        "auth": {
            "anonymous": "",
            "existingSecret": "callers",
            "env": [{"name": "SINKSERVE_AUTH_KEYS", "value": "/auth/keys"}],
        }
    },
    "certificates": {
        "tls": {"existingSecret": "certificates", "name": "sinkserve.chat.svc", "askClients": True},
        "metrics": {"serviceMonitor": {"enabled": True}},
    },
    "from a registry": {
        "image": {"registry": "registry.example.com/platform", "tag": "0.2.0-1", "pullSecrets": [{"name": "pull"}]},
        "serviceAccount": {"create": False, "name": "chat"},
    },
}


@pytest.mark.parametrize("name", VALUES)
def test_kubernetes_takes_what_the_chart_makes(name: str) -> None:
    for (kind, _), found in render(**VALUES[name]).items():
        if kind not in OF_OTHERS:
            _validate(json.dumps(found))


@cache  # most of one chart's objects are those of the next
def _validate(found: str) -> None:
    kubernetes_validate.validate(json.loads(found), "1.37", strict=True)


@pytest.mark.nightly
def test_others_take_what_the_chart_makes_for_them(tmp_path: Path) -> None:
    found = [each for values in VALUES.values() for (kind, _), each in render(**values).items() if kind in OF_OTHERS]
    assert {each["kind"] for each in found} == set(OF_OTHERS)
    assert complaints(found, tmp_path) == ""


@pytest.mark.long
def test_what_others_do_not_know_is_found(tmp_path: Path) -> None:
    objects = render(metrics={"serviceMonitor": {"enabled": True}}, autoscaling={"enabled": True, "kind": "keda"})
    monitor, scaled = objects["ServiceMonitor", "sinkserve"], objects["ScaledObject", "sinkserve-runtime"]
    monitor["spec"]["endpoints"][0]["ports"] = "metrics"
    scaled["spec"]["maxReplicaCount"] = "8"
    said = complaints([monitor, scaled], tmp_path)
    assert """'"ports"' does not exist""" in said
    assert "'string' is not assignable to type 'number'" in said


@pytest.mark.parametrize("name", VALUES)
def test_helm_finds_nothing_to_say(name: str) -> None:
    report = lint(CHART, {**LEAST, **VALUES[name]}, strict=True)
    assert (report["errors"], [each for each in report["messages"] if each["severity"] > 1]) == ([], [])


@pytest.mark.parametrize("name", VALUES)
def test_every_setting_exists_and_takes_its_value(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = render(**VALUES[name])
    for workload, model in (("builder", BuilderSettings), ("runtime", RuntimeSettings), ("web", WebSettings)):
        if ("Deployment", f"sinkserve-{workload}") in objects:
            given = settings(objects, f"sinkserve-{workload}")
            for setting, value in given.items():
                monkeypatch.setenv(setting, value)
            assert set(given) <= _known(SharedSettings) | _known(model) | _known(ClientSettings)
            assert (model.load().listen, SharedSettings.load().log_format) == (given[f"{_prefix(model)}LISTEN"], "json")


def _known(model: type[Settings]) -> set[str]:
    return {f"{_prefix(model)}{field}".upper() for field in model.model_fields}


def _prefix(model: type[Settings]) -> str:
    return str(model.model_config.get("env_prefix"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"database": {"existingSecret": ""}}, "database.existingSecret: name a Secret"),
        ({"store": {"url": ""}}, "store.url: say where engines are kept"),
        ({"store": {"url": "file:///somewhere"}}, "/store/url"),
        ({"runtime": {"replica": 3}}, "replica"),
        ({"runtime": {"durability": "tokens"}}, "/runtime/durability"),
        ({"gateway": {"enabled": True}, "envoy": {"enabled": False}}, "gateway.enabled: needs envoy.enabled"),
        ({"gateway": {"enabled": True}}, "gateway.parents: name the Gateway"),
        ({"gateway": {"enabled": True, "parents": [{}]}, "tls": {"existingSecret": "a"}}, "a GRPCRoute speaks no TLS"),
        ({"auth": {"anonymous": "maybe"}}, "/auth/anonymous"),
        ({"auth": {}}, "auth: say in auth.env how callers are known, or auth.anonymous=allow"),
        ({"envoy": {"origins": ["*"]}}, "/envoy/origins/0"),
        ({"web": {"enabled": True, "hosts": ["https://a.example"]}}, "/web/hosts/0"),
        ({"web": {"enabled": True, "hosts": ["*"]}}, "/web/hosts/0"),
        ({"web": {"enabled": True, "route": {"enabled": True}}}, "web.route.parents: name the Gateway"),
        ({"web": {"enabled": True, "route": {"enabled": True, "parents": [{}]}}}, "web.hosts: name the hosts"),
        (
            {"web": {"enabled": True, "route": {"enabled": True}, "tls": {"existingSecret": "a"}}},
            "an HTTPRoute speaks no TLS",
        ),
    ],
)
def test_values_that_make_no_sense_are_refused_by_name(values: dict[str, Any], message: str) -> None:
    with pytest.raises(HelmError, match=re.escape(message)):
        render(**values)


@pytest.mark.parametrize("name", ["runtime", "builder"])
def test_probes_ask_in_a_way_that_the_service_answers(name: str) -> None:
    probes = {"startupProbe": "/livez", "livenessProbe": "/livez", "readinessProbe": "/readyz"}
    plain = container(render(), f"sinkserve-{name}")
    assert {probe: plain[probe]["grpc"]["service"] for probe in probes} == {
        "startupProbe": "liveness",
        "livenessProbe": "liveness",
        "readinessProbe": "readiness",
    }
    encrypted = container(render(tls={"existingSecret": "certificates"}), f"sinkserve-{name}")
    assert {probe: encrypted[probe]["httpGet"] for probe in probes} == {
        probe: {"scheme": "HTTPS", "port": "metrics", "path": path} for probe, path in probes.items()
    }
    assert [plain[probe]["periodSeconds"] for probe in probes] == [
        encrypted[probe]["periodSeconds"] for probe in probes
    ]


def test_pods_outlive_what_they_do_when_they_stop() -> None:
    objects = render(
        runtime={"drainGraceSeconds": 300},
        builder={"stopGraceSeconds": 100},
        web={"enabled": True, "stopGraceSeconds": 60},
    )
    for name, grace_s in (("runtime", 300), ("builder", 100), ("web", 60)):
        pod = objects["Deployment", f"sinkserve-{name}"]["spec"]["template"]["spec"]
        assert pod["terminationGracePeriodSeconds"] > grace_s + 10  # after which a stop ends in any case


@pytest.mark.parametrize("name", ["runtime", "builder", "envoy", "web"])
def test_no_container_may_more_than_it_has_to(name: str) -> None:
    objects = render(web={"enabled": True})
    pod = objects["Deployment", f"sinkserve-{name}"]["spec"]["template"]["spec"]
    security = container(objects, f"sinkserve-{name}")["securityContext"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert security["readOnlyRootFilesystem"] is True
    assert security["capabilities"] == {"drop": ["ALL"]}


def test_administration_is_reached_from_nowhere() -> None:
    for (kind, _), found in render().items():
        if kind == "Service":
            assert not {50062, 50072} & {port["port"] for port in found["spec"]["ports"]}
    for name in ("builder", "runtime"):
        assert not [setting for setting in settings(render(), f"sinkserve-{name}") if "ADMIN" in setting]


def test_runtimes_are_reached_through_envoy_alone() -> None:
    policy = render()["NetworkPolicy", "sinkserve-runtime"]["spec"]
    (grpc, metrics) = policy["ingress"]
    (peer,) = grpc["from"]
    assert peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "envoy"
    assert metrics["ports"] == [{"port": "metrics"}]


def test_envoy_runs_the_file_that_is_tested_with_the_runtimes_of_the_release() -> None:
    assert (CHART / "files" / "envoy.yaml").read_text() == (DEPLOY / "envoy.yaml").read_text(), "link it"
    objects = render(envoy={"origins": ["https://a.example"]})
    text = objects["ConfigMap", "sinkserve-envoy"]["data"]["envoy.yaml"]
    (cluster,) = yaml.safe_load(text)["static_resources"]["clusters"]
    (endpoint,) = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
    address = endpoint["endpoint"]["address"]["socket_address"]
    (port,) = [each for each in objects["Service", address["address"]]["spec"]["ports"] if each["name"] == "grpc"]
    assert port["port"] == address["port_value"]
    assert "https://a.example" in text
    assert "chat.example.com" not in text


def test_the_chart_has_the_version_of_the_product() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    version = re.search(r'^version = "(.+)"$', (DEPLOY.parent / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    assert (chart["version"], chart["appVersion"]) == (version[1], version[1])
