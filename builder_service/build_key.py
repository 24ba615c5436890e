"""The build key: equal keys give equal engines, so an engine of the same key need not be built again."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from common.digest import digest_of
from common.hardware import Machine
from common.manifest import EngineFile
from common.spec import ModelSpec

_TOOLS = ("sinkserve", "numpy", "onnx", "onnxruntime", "jinja2", "tokenizers")
_OWN_PACKAGES = ("builder_service", "common")


def tool_versions(machine: Machine | None = None) -> dict[str, str]:
    """Versions of all that makes an engine, this program's own code among them, and the GPU it is compiled on."""
    versions = {name: version(name) for name in _TOOLS}
    versions |= {"python": platform.python_version(), "builder": _own_digest()}
    if machine is not None:
        gpu = f"{machine.gpu}, compute capability {machine.compute_capability}"
        versions |= {"tensorrt": machine.tensorrt_version, "cuda": machine.cuda_version, "gpu": gpu}
    return versions


def build_key(files: Sequence[EngineFile], spec: ModelSpec, tools: Mapping[str, str]) -> str:
    """Digest over the files' names and bytes, the spec but for name and source, and the tools."""
    parts = {
        "files": {file.path: file.digest for file in files},
        "spec": spec.model_dump(mode="json", exclude={"name", "source"}),
        "tools": dict(tools),
    }
    return digest_of(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode())


def _own_digest() -> str:
    """Short digest of the code that builds: between releases the version says too little."""
    root = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for package in _OWN_PACKAGES:
        for path in sorted((root / package).glob("*.py")):
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
