"""RESOLVE: find the checkpoint, fetch it if it is elsewhere, and hash its files."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, time

from builder_service.chat.derive import asks_time
from builder_service.checkpoint.adapter.checkpoint import AdaptedCheckpoint
from builder_service.checkpoint.checkpoint import Checkpoint
from builder_service.pipeline.build_key import build_key, tool_versions
from builder_service.pipeline.contents import settled
from builder_service.pipeline.messages import Order, Parent
from builder_service.queue.build import Stage
from builder_service.sources.folder import SourceFile, hash_files
from builder_service.sources.locate import Located, locate
from common.engine.tensorrt.library import rtx_version
from common.engine.tensorrt.machine import find_machine, this_platform
from common.spec.hardware import GpuMachine, check_able, check_asked
from common.spec.model_spec import ModelSpec, Source, Target

FETCHED = 0.9
"""Share of RESOLVE that fetching takes, if the checkpoint has to be fetched."""


@dataclass(frozen=True)
class ResolvedSource:
    """A checkpoint, opened and hashed."""

    spec: ModelSpec
    """What to build, in the precision that suits the checkpoint where none is asked for."""
    origin: Source
    """Where it comes from; for the hub, with the commit."""
    checkpoint: Checkpoint
    files: tuple[SourceFile, ...]
    tools: dict[str, str]
    """Versions of all that makes the engine."""
    key: str
    machine: GpuMachine | None
    """The machine that the engine is compiled for; None for a target that is not compiled for one."""
    today: datetime
    """The time that chat templates get."""


def resolve_source(order: Order, parent: Parent) -> ResolvedSource:
    """The whole stage. Raises what `find_machine`, `rtx_version`, `check_asked`, `locate` and `Located.open` do."""
    parent.progress(Stage.RESOLVE, 0.0)
    machine = _find_machine(order.spec)
    compiler = _find_compiler(order.spec)
    found = locate(
        order.spec,
        roots=order.source_roots,
        remote=order.remote,
        work=order.work,
        log=parent.log,
        progress=lambda done: parent.progress(Stage.RESOLVE, FETCHED * done),
    )
    checkpoint = found.open()
    spec = settled(order.spec, checkpoint)
    files = _hash(checkpoint, found, parent)
    found.check_digests(files)
    today = datetime.combine(datetime.now(UTC), time.min, UTC)
    date = f"{today:%Y-%m-%d}" if asks_time(checkpoint, spec.chat_template) else None
    tools = tool_versions(machine, date) | compiler
    key = build_key([file.as_engine_file for file in files], spec, tools)
    return ResolvedSource(spec, found.origin, checkpoint, files, tools, key, machine, today)


def _hash(checkpoint: Checkpoint, found: Located, parent: Parent) -> tuple[SourceFile, ...]:
    """Read all files; fetching them was a share of RESOLVE already."""
    adapted = checkpoint if isinstance(checkpoint, AdaptedCheckpoint) else None
    paths, before = (adapted.base if adapted else checkpoint).files, FETCHED if found.fetched else 0.0
    size_bytes = sum(path.stat().st_size for path in paths)
    files = hash_files(
        paths, lambda done: parent.progress(Stage.RESOLVE, before + (1 - before) * done, size_bytes), found.roots
    )
    if adapted is None or found.adapter is None:
        return files
    return (*files, *hash_files(adapted.adapter.files, lambda _: None, found.adapter.roots))


def _find_machine(spec: ModelSpec) -> GpuMachine | None:
    """The machine that a target is compiled for; None where it is not compiled for any."""
    if spec.target is not Target.TENSORRT:
        return None
    machine = find_machine()
    check_asked(spec.hardware, machine)
    check_able(spec.precision, machine)
    return machine


def _find_compiler(spec: ModelSpec) -> dict[str, str]:
    """What an engine depends on that is compiled without the GPU it is for: the compiler, and the platform."""
    if spec.target is not Target.TENSORRT_RTX:
        return {}
    return {"tensorrt_rtx": rtx_version(), "platform": this_platform()}
