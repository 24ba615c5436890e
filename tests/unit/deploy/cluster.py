"""The chart as a cluster would get it: drawn by Helm's own code, objects by kind and name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from helm_python.chart import Chart

DEPLOY = Path(__file__).resolve().parents[3] / "deploy"
CHART = DEPLOY / "helm" / "sinkserve"
LEAST: dict[str, Any] = {
    "database": {"existingSecret": "database"},
    "store": {"url": "s3://engines/store"},
    "auth": {"anonymous": "allow"},
}
"""What every installation says."""

Objects = dict[tuple[str, str], dict[str, Any]]


def render(**values: Any) -> Objects:
    """What the chart makes of `values` beside the least, in release `sinkserve`."""
    with Chart.load(CHART) as chart:
        files = chart.render(values={**LEAST, **values}, name="sinkserve", namespace="chat")
    texts = [text for path, text in files.items() if path.endswith(".yaml")]
    found = [each for text in texts for each in yaml.safe_load_all(text) if each]
    return {(each["kind"], each["metadata"]["name"]): each for each in found}


def container(objects: Objects, name: str, kind: str = "Deployment") -> dict[str, Any]:
    """The only container of a workload."""
    (found,) = objects[kind, name]["spec"]["template"]["spec"]["containers"]
    return dict(found)


def settings(objects: Objects, name: str) -> dict[str, str]:
    """The settings that a workload's container gets, by name."""
    return {each["name"]: each.get("value", "") for each in container(objects, name)["env"]}
