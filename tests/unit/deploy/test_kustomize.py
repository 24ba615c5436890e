"""The example for clusters without Helm: the drawn chart, changed for one cluster."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from tests.unit.deploy.cluster import DEPLOY, container, render


def test_the_example_changes_what_it_says(tmp_path: Path) -> None:
    shutil.copy(DEPLOY / "kustomize" / "kustomization.yaml", tmp_path)
    objects = [found for (kind, _), found in render().items() if kind != "Job"]
    (tmp_path / "sinkserve.yaml").write_text(yaml.safe_dump_all(objects))
    command = (Path(sys.executable).parent / "kubectl", "kustomize", tmp_path)
    drawn = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = {(each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(drawn)}
    assert len(found) == len(objects)
    assert {each["metadata"]["namespace"] for each in found.values()} == {"chat"}
    runtime = container(found, "sinkserve-runtime")
    assert runtime["image"] == "registry.example.com/platform/sinkserve-runtime:0.2.0-gpu"
    assert runtime["resources"]["limits"]["nvidia.com/gpu"] == 1
