"""An engine as an artifact of registries: the CNCF's ModelPack, as OCI manifests and configurations.

Source: modelpack/model-spec, v1. A layer for each file of the engine, one for the manifest that describes them, one
for who vouches for it. Layers are the files as they are, so that their digests are those of our store.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from common.artifact.errors import NotAnEngine
from common.digest import digest_of, is_digest
from common.spec.manifest import Manifest

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
ARTIFACT = "application/vnd.cncf.model.manifest.v1+json"
CONFIG = "application/vnd.cncf.model.config.v1+json"
WEIGHT = "application/vnd.cncf.model.weight.v1.raw"
DESCRIPTION = "application/vnd.cncf.model.weight.config.v1.raw"
FILE = "org.cncf.model.filepath"
MANIFEST_FILE, SIGNATURE_FILE = "manifest.json", "signature.dsse.json"
"""Where the engine's own manifest lies, and its signature if it has one."""


@dataclass(frozen=True)
class Layer:
    """One file of an artifact."""

    path: str
    digest: str
    size_bytes: int
    media_type: str = WEIGHT

    def descriptor(self) -> dict[str, Any]:
        """The layer as an OCI manifest names it."""
        return {
            "mediaType": self.media_type,
            "digest": self.digest,
            "size": self.size_bytes,
            "annotations": {FILE: self.path},
        }

    @classmethod
    def of_bytes(cls, path: str, data: bytes) -> Layer:
        """A small file that describes the engine."""
        return cls(path, digest_of(data), len(data), DESCRIPTION)


def engine_layers(manifest: Manifest) -> list[Layer]:
    """The files of an engine as layers."""
    return [Layer(file.path, file.digest, file.size_bytes) for file in manifest.files]


def config_bytes(manifest: Manifest, created: datetime, layers: Sequence[Layer]) -> bytes:
    """The configuration of the artifact: what the model is, for people and registries."""
    shape = manifest.architecture
    config = {
        "descriptor": {
            "name": manifest.name,
            "version": str(manifest.version),
            "family": shape.family,
            "createdAt": created.isoformat(),
        },
        "config": {
            "architecture": "transformer",
            "format": manifest.spec.target.value,
            "precision": manifest.spec.precision.value,
            "capabilities": {"inputTypes": ["text"], "outputTypes": ["text"]},
        },
        "modelfs": {"type": "layers", "diffIds": [layer.digest for layer in layers]},
    }
    return _json(config)


def artifact_bytes(config: bytes, layers: Sequence[Layer]) -> bytes:
    """The OCI manifest of the artifact."""
    return _json(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": ARTIFACT,
            "config": {"mediaType": CONFIG, "digest": digest_of(config), "size": len(config)},
            "layers": [layer.descriptor() for layer in layers],
        }
    )


def read_layers(artifact: bytes) -> dict[str, Layer]:
    """Layers of an artifact by path. Raises NotAnEngine for what is no artifact of this kind."""
    try:
        data = json.loads(artifact)
        kind, layers = data.get("artifactType"), [_layer(each) for each in data["layers"]]
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise NotAnEngine(f"its OCI manifest cannot be read: {error}") from None
    if kind != ARTIFACT:
        raise NotAnEngine(f"its artifactType is {str(kind)[:100]!r}, not {ARTIFACT}")
    return {layer.path: layer for layer in layers}


def _layer(data: Mapping[str, Any]) -> Layer:
    layer = Layer(data["annotations"][FILE], data["digest"], data["size"], data["mediaType"])
    if not isinstance(layer.path, str):
        raise TypeError(f"{str(layer.path)[:100]!r} is no path")
    if not is_digest(layer.digest):
        raise ValueError(f"{str(layer.digest)[:100]!r} is no digest such as sha256:0123...")
    size: object = layer.size_bytes
    if not isinstance(size, int) or size < 0:
        raise ValueError(f"{str(size)[:100]!r} is no size of {layer.path}")
    return layer


def _json(data: Mapping[str, Any]) -> bytes:
    return json.dumps(data, sort_keys=True, separators=(",", ":")).encode()
