"""The images' steps in fresh Debian roots, then both services in them as containers run them: non-root, read-only.

Needs root, debootstrap, a Debian mirror and some minutes: `make images`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.sbom import bill_of
from tests.images.rehearsal import Stage, rehearse

pytestmark = [
    pytest.mark.images,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("debootstrap"), reason="needs root and debootstrap"),
]
REPOSITORY = Path(__file__).resolve().parents[2]
BILLS = REPOSITORY / "build" / "sbom"
BUILDER, RUNTIME = "127.0.0.1:50061", "127.0.0.1:50071"
SPEC = """
name: demo
source: {uri: /models/demo}
precision: int8
cache: {sink_tokens: 4, window_tokens: 252, chunk_tokens: 64, max_slots: 8}
"""


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("debian") / "root"
    release = ["--variant=minbase", "bookworm", str(root), "http://deb.debian.org/debian"]
    subprocess.run(["debootstrap", *release], check=True, stdout=subprocess.DEVNULL)
    return root


@pytest.fixture(scope="module")
def images(debian: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Stage]:
    folder = tmp_path_factory.mktemp("images")
    files = {name: REPOSITORY / "deploy" / f"{name}.Dockerfile" for name in ("builder", "runtime")}
    return {name: rehearse(file, REPOSITORY, debian, folder / name) for name, file in files.items()}


def test_both_services_run_read_only_as_nobody_and_talk(images: dict[str, Stage], tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    os.chown(state, 10001, 10001)
    (tmp_path / "spec.yaml").write_text(SPEC)
    shared = {state: "/var/lib/sinkserve", REPOSITORY / "demo" / "model": "/models/demo"}
    anonymous = {"SINKSERVE_AUTH_ANONYMOUS": "allow"}
    on_demand = {"SINKSERVE_RUNTIME_LOAD_ON_DEMAND": "true", **anonymous}
    with (
        _running(images["builder"], shared, BUILDER, **anonymous),
        _running(images["runtime"], shared, RUNTIME, **on_demand),
    ):
        assert "demo@1" in _sinkserve("build", str(tmp_path / "spec.yaml"))
        assert _sinkserve("chat", "demo", "--prompt", "my cat is called Miso.").strip()


def test_the_runtime_lacks_what_only_the_builder_needs(images: dict[str, Stage]) -> None:
    probe = (
        "import importlib.util as u; print([n for n in ('onnx', 'transformers', 'jinja2', 'pip') if u.find_spec(n)])"
    )
    found = {name: _output(image.command("python", "-c", probe)) for name, image in images.items()}
    assert found == {"builder": "['onnx', 'transformers', 'jinja2']", "runtime": "[]"}


@pytest.mark.parametrize("name", ["builder", "runtime"])
def test_an_image_has_a_bill_of_materials(images: dict[str, Stage], name: str) -> None:
    """Kept in build/sbom/, for whoever ships the image."""
    BILLS.mkdir(parents=True, exist_ok=True)
    (BILLS / f"{name}.cdx.json").write_text(text := bill_of(images[name].root, f"sinkserve-{name}"))
    found = {each["purl"].partition("@")[0] for each in json.loads(text)["components"]}
    assert {"pkg:pypi/sinkserve", "pkg:pypi/grpcio", "pkg:deb/debian/libc6", "pkg:deb/debian/python3"} <= found
    assert ("pkg:pypi/onnx" in found, "pkg:pypi/pip" in found) == (name == "builder", False)


@contextlib.contextmanager
def _running(image: Stage, writable: dict[Path, str], address: str, **variables: str) -> Iterator[None]:
    process = subprocess.Popen(image.contained(*image.entrypoint, writable=writable, **variables))
    try:
        _wait_until_healthy(image, process)
        yield
    finally:
        process.terminate()
        assert process.wait(60) == 0, f"what served {address} did not stop well"


def _wait_until_healthy(image: Stage, process: subprocess.Popen[bytes]) -> None:
    for _ in range(120):
        assert process.poll() is None, "the service ended"
        if subprocess.run(image.command(*image.health_check), check=False, stderr=subprocess.DEVNULL).returncode == 0:
            return
        time.sleep(0.25)
    pytest.fail("the health check never succeeded")


def _sinkserve(*words: str) -> str:
    return _output([sys.executable, "-m", "sinkserve.cli", *words])


def _output(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout.strip()
