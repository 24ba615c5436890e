"""PUBLISH: write the engine's manifest, and store its files. The worker then publishes the version."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock

from builder_service.pipeline.compile import Compiled
from builder_service.pipeline.estimate import kv_bytes_per_slot
from builder_service.pipeline.messages import Order, Parent
from builder_service.pipeline.plan import Plan
from builder_service.pipeline.resolve import ResolvedSource
from builder_service.queue.build import Stage
from common.digest import digest_file
from common.engine.tensorrt.library import RTX_CUDA
from common.spec.hardware import Hardware
from common.spec.manifest import ENGINE_PATHS, MEDIA_TYPES, WEIGHTS_PATH, EngineFile, Manifest
from common.spec.model_spec import ModelSpec, Target
from common.spec.rtx_gpus import two_numbers
from common.spec.target_options import HardwareCompatibility
from common.store.blob_store import open_store

_FILES_AT_ONCE = 4


def describe_engine(
    order: Order, source: ResolvedSource, plan: Plan, compiled: Compiled | None, figures: dict[str, float]
) -> Manifest:
    """The manifest of the engine, with version 0: the version is counted when the engine is published.

    `figures` are what VERIFY measured.
    """
    spec, files = order.spec, _digest_files(plan, order.spec.target)
    return Manifest(
        name=spec.name,
        version=0,
        spec=spec.model_copy(update={"source": source.origin}),
        architecture=plan.architecture,
        rope=plan.rope,
        end_token_ids=plan.end_token_ids,
        generation=plan.generation,
        text=plan.text.model,
        kv_bytes_per_slot=kv_bytes_per_slot(plan.architecture, plan.geometry, plan.weight_format),
        weight_bytes=_weight_bytes(source, plan),
        tolerance=figures.get("allowed_divergence"),
        build_key=source.key,
        source_files=tuple(file.as_engine_file for file in source.files),
        tool_versions=source.tools,
        files=files,
        network={} if compiled is None else compiled.network,
        verification=figures,
        verified_on="" if compiled is None else compiled.runs_on,
        hardware=_hardware(source, spec),
        warnings=plan.warnings,
    )


def publish_files(order: Order, plan: Plan, files: Sequence[EngineFile], parent: Parent) -> None:
    """Store the files, several at once."""
    parent.progress(Stage.PUBLISH, 0.0)
    store = open_store(order.store_url, order.store_timeout_s)
    total = sum(file.size_bytes for file in files)
    read = _share_of(total, lambda done: parent.progress(Stage.PUBLISH, done, total))
    with ThreadPoolExecutor(_FILES_AT_ONCE) as threads:
        puts = [threads.submit(store.put, plan.out / file.path, file.digest, read) for file in files]
        for put in puts:
            put.result()


def _digest_files(plan: Plan, target: Target) -> tuple[EngineFile, ...]:
    paths = [path for name in sorted(ENGINE_PATHS[target]) if (path := plan.out / name).exists()]
    return tuple(
        EngineFile(
            path=path.name, media_type=MEDIA_TYPES[path.name], digest=digest_file(path), size_bytes=path.stat().st_size
        )
        for path in paths
    )


def _weight_bytes(source: ResolvedSource, plan: Plan) -> int:
    written = plan.out / WEIGHTS_PATH
    paths = [written] if written.exists() else source.checkpoint.weight_files
    return sum(path.stat().st_size for path in paths)


def _hardware(source: ResolvedSource, spec: ModelSpec) -> Hardware | None:
    if spec.target is Target.TENSORRT_RTX:
        return _rtx_hardware(source, spec)
    if (machine := source.machine) is None:
        return None
    return Hardware(
        gpu=machine.gpu,
        compute_capability=machine.compute_capability,
        tensorrt_version=machine.tensorrt_version,
        cuda_version=machine.cuda_version,
        hardware_compatibility=spec.options.tensorrt.hardware_compatibility,
        version_compatible=spec.options.tensorrt.version_compatible,
        platform=machine.platform,
    )


def _rtx_hardware(source: ResolvedSource, spec: ModelSpec) -> Hardware:
    return Hardware(
        gpu="",
        compute_capability="",
        compute_capabilities=tuple(map(two_numbers, spec.options.tensorrt_rtx.compute_capabilities)),
        tensorrt_version=source.tools["tensorrt_rtx"],
        cuda_version=RTX_CUDA,
        hardware_compatibility=HardwareCompatibility.NONE,
        version_compatible=False,
        platform=source.tools["platform"],
    )


def _share_of(total: int, progress: Callable[[float], None]) -> Callable[[int], None]:
    """A function that adds up bytes and reports their share of `total`, in order; many threads may call it."""
    done, turn = 0, Lock()

    def read(size_bytes: int) -> None:
        nonlocal done
        with turn:
            done += size_bytes
            progress(min(1.0, done / max(1, total)))

    return read
