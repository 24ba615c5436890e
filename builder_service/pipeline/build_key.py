"""The build key: equal keys give equal engines, so an engine of the same key need not be built again."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from common.digest import digest_of
from common.spec.hardware import GpuMachine
from common.spec.manifest import EngineFile
from common.spec.model_spec import ModelSpec

TOOLS = (
    "sinkserve",
    "gguf",
    "jinja2",
    "ml-dtypes",
    "numpy",
    "onnx",
    "onnxruntime",
    "protobuf",  # writes the graph
    "safetensors",
    "sentencepiece",
    "tokenizers",
    "transformers",
)
"""Packages whose versions decide what an engine is."""
_OWN_PACKAGES = ("builder_service", "common")
_ROOT = Path(__file__).resolve().parents[2]


def tool_versions(machine: GpuMachine | None = None, date: str | None = None) -> dict[str, str]:
    """Versions of everything that an engine depends on, this program's own code included, and the `machine` that it is
    compiled on. `date` is given if the chat template uses the date.
    """
    versions = {name: version(name) for name in TOOLS}
    versions |= {"python": platform.python_version(), "builder": own_digest()}
    versions |= {} if machine is None else _machine_facts(machine)
    return versions | ({} if date is None else {"date": date})


def _machine_facts(machine: GpuMachine) -> dict[str, str]:
    """What a compiled engine depends on; it depends neither on the driver nor on the free memory."""
    return {
        "tensorrt": machine.tensorrt_version,
        "cuda": machine.cuda_version,
        "gpu": f"{machine.gpu}, compute capability {machine.compute_capability}",
        "platform": machine.platform,
    }


def build_key(files: Sequence[EngineFile], spec: ModelSpec, tools: Mapping[str, str]) -> str:
    """Digest of the files' names and bytes, the spec without name and source, and the tools.

    The GPU that the spec asks for is left out: the tools have the GPU that compiles.
    """
    parts = {
        "files": {file.path: file.digest for file in files},
        "spec": spec.model_dump(mode="json", exclude={"name", "source", "hardware"}),
        "tools": dict(tools),
    }
    return digest_of(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode())


def own_digest(root: Path = _ROOT) -> str:
    """Short digest of the code that builds, and of the text that weights are rounded by, found under `root`: between
    two releases they change and the version does not.
    """
    digest = hashlib.sha256()
    for package in _OWN_PACKAGES:
        for path in sorted(path for kind in ("*.py", "*.txt") for path in (root / package).rglob(kind)):
            digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
