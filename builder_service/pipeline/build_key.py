"""The build key: equal keys give equal engines, so an engine of the same key need not be built again."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from common.digest import digest_of
from common.spec.hardware import Machine
from common.spec.manifest import EngineFile
from common.spec.model_spec import ModelSpec

TOOLS = (
    "sinkserve",
    "jinja2",
    "ml-dtypes",
    "numpy",
    "onnx",
    "onnxruntime",
    "protobuf",  # writes the graph
    "tokenizers",
    "transformers",
)
"""Packages whose versions decide what an engine is."""
_OWN_PACKAGES = ("builder_service", "common")
_ROOT = Path(__file__).resolve().parents[2]


def tool_versions(machine: Machine | None = None, date: str | None = None) -> dict[str, str]:
    """Versions of all that makes an engine, this program's own code among them.

    Besides, the `machine` it is compiled on, and the `date` where the chat template tells it.
    """
    versions = {name: version(name) for name in TOOLS}
    versions |= {"python": platform.python_version(), "builder": own_digest()}
    versions |= {} if machine is None else _machine_facts(machine)
    return versions | ({} if date is None else {"date": date})


def _machine_facts(machine: Machine) -> dict[str, str]:
    """What a compiled engine depends on; the driver and the free memory are not the engine's."""
    return {
        "tensorrt": machine.tensorrt_version,
        "cuda": machine.cuda_version,
        "gpu": f"{machine.gpu}, compute capability {machine.compute_capability}",
        "platform": machine.platform,
    }


def build_key(files: Sequence[EngineFile], spec: ModelSpec, tools: Mapping[str, str]) -> str:
    """Digest over the files' names and bytes, the spec but for name and source, and the tools.

    The GPU that the spec asks for is not in it: the one that compiles is among the tools.
    """
    parts = {
        "files": {file.path: file.digest for file in files},
        "spec": spec.model_dump(mode="json", exclude={"name", "source", "hardware"}),
        "tools": dict(tools),
    }
    return digest_of(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode())


def own_digest(root: Path = _ROOT) -> str:
    """Short digest of the code that builds, found under `root`: between releases the version says too little."""
    digest = hashlib.sha256()
    for package in _OWN_PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
