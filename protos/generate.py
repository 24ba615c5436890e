"""Generates the Python stubs of ``sinkserve.*.v1`` beside the SDK, from the protos in this folder.

Run by ``make proto`` and, by the build hook, for every wheel: the stubs are never committed.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def generate(root: Path = ROOT) -> None:
    """Write ``*_pb2.py``, ``*_pb2_grpc.py`` and their type stubs; raises RuntimeError if protoc refuses."""
    from grpc_tools import protoc  # noqa: PLC0415 - only where stubs are made

    protos = root / "protos"
    sources = sorted(str(path) for path in (protos / "sinkserve").rglob("*.proto"))
    outputs = [f"--{kind}_out={root}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
    includes = [f"-I{protos}", f"-I{protos / 'third_party'}", f"-I{_well_known()}"]
    # The plugins for type stubs lie beside the interpreter, which need not be on the path.
    os.environ["PATH"] = os.pathsep.join((os.environ.get("PATH", ""), str(Path(sys.executable).parent)))
    if protoc.main(["protoc", *includes, *outputs, *sources]) != 0:
        raise RuntimeError("protoc refused the protos; see its message above")


def _well_known() -> Path:
    import grpc_tools  # noqa: PLC0415 - only where stubs are made

    return Path(str(grpc_tools.__file__)).parent / "_proto"


if __name__ == "__main__":
    generate()
    sys.exit(0)
