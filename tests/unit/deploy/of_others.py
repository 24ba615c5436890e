"""Objects of others than Kubernetes itself, held against what those publish of them: as types, by a compiler.

Types say which fields there are, of which kind, and which are needed; not what a text has to look like.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.servers.node import link_packages

OF_OTHERS: Mapping[str, str] = {
    "GRPCRoute": "@kubernetes-models/gateway-api/gateway.networking.k8s.io/v1/GRPCRoute",
    "HTTPRoute": "@kubernetes-models/gateway-api/gateway.networking.k8s.io/v1/HTTPRoute",
    "ScaledObject": "@kubernetes-models/keda/keda.sh/v1alpha1/ScaledObject",
    "ServiceMonitor": "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/ServiceMonitor",
}
"""Where the type of each kind is."""
_OPTIONS = ("--noEmit", "--strict", "--skipLibCheck", "--module", "nodenext", "--moduleResolution", "nodenext")


def complaints(objects: Sequence[Mapping[str, Any]], folder: Path) -> str:
    """What the compiler has to say, a line for each fault; skips the test where there is no Node."""
    link_packages(folder, Path(__file__).parent / "elsewhere")
    lines = [f'import type {{ I{kind} }} from "{module}";' for kind, module in OF_OTHERS.items()]
    for number, each in enumerate(objects):
        lines.append(f"export const object{number}: I{each['kind']} = {json.dumps(each)};")
    (folder / "objects.ts").write_text("\n".join(lines))
    (folder / "package.json").write_text('{"type": "module"}')
    command = (folder / "node_modules" / ".bin" / "tsc", *_OPTIONS, "objects.ts")
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False).stdout
