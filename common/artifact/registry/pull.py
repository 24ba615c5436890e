"""An artifact of a registry into a folder, where a pull that broke off goes on."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from common.artifact.errors import ArtifactError, NotAnEngine
from common.artifact.model_pack import Layer, read_layers
from common.artifact.oci_layout import OciLayout
from common.artifact.registry.repository import RegistryRepository
from common.digest import digest_hex, digest_of


@contextmanager
def pulled(repository: RegistryRepository, under: Path) -> Iterator[OciLayout]:
    """The artifact with all its blobs, in a folder of its own under `under` that is gone once it has been used.

    Raises ArtifactError and OSError; what has arrived then stays, for the next one who pulls the same, unless it is no
    engine.
    """
    artifact = repository.artifact()
    layers = read_layers(artifact)
    folder = under / digest_hex(digest_of(artifact))
    with _alone_in(folder):
        layout = OciLayout(folder)
        layout.create(again=True)
        blobs = {layer.digest: layer for layer in layers.values()}
        missing = [layer for layer in blobs.values() if not layout.path(layer.digest).is_file()]
        _check_room(folder, missing)
        for layer in missing:
            repository.fetch(layer.digest, layer.size_bytes, layout.path(layer.digest))
        layout.finish(artifact, "pulled")
        try:
            yield layout
        except NotAnEngine:
            shutil.rmtree(folder)
            raise
        shutil.rmtree(folder)


def _check_room(folder: Path, missing: Iterable[Layer]) -> None:
    arrived = sum(part.stat().st_size for part in folder.rglob("*.part"))
    needed, free = sum(layer.size_bytes for layer in missing) - arrived, shutil.disk_usage(folder).free
    if needed > free:
        what = f"{folder} has {free} bytes free, and what is still to come of the artifact has {needed}"
        raise ArtifactError(what, hint="free some, or give SINKSERVE_HOME a larger disk; the store takes as much again")


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Raises ArtifactError while somebody else pulls the same."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise ArtifactError(f"the same artifact is being imported already, by way of {folder}") from None
    finally:
        os.close(descriptor)
