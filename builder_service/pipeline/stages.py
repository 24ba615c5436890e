"""The stages of a build, each a function of the pipeline: what it does to files, and what it reports."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, time
from threading import Lock

from builder_service.chat.derive import asks_time, derive_text
from builder_service.checkpoint.checkpoint import Checkpoint
from builder_service.checkpoint.generation_config import end_tokens, generation_defaults
from builder_service.families.registry import read_model, read_rope
from builder_service.machine.memory import free_disk_bytes, free_memory_bytes
from builder_service.model.model import check_geometry
from builder_service.model.tensors import ModelTensors
from builder_service.model.weight_format import WeightFormat
from builder_service.pipeline.build_key import build_key, tool_versions
from builder_service.pipeline.estimate import check_fits, check_fits_device, estimate, kv_bytes_per_slot
from builder_service.pipeline.export import export, weight_bytes
from builder_service.pipeline.messages import Order
from builder_service.pipeline.plan import Parent, Plan, Source
from builder_service.queue.build import Stage
from builder_service.sources.folder import hash_files, text_files
from builder_service.sources.locate import locate
from builder_service.verify import verify as verification
from common.digest import digest_file
from common.engine.engine import Engine
from common.engine.tensorrt_machine import find_machine
from common.spec.hardware import Hardware, Machine, check_asked
from common.spec.manifest import (
    ENGINE_PATHS,
    MEDIA_TYPES,
    TOKENIZER_PATH,
    WEIGHTS_PATH,
    EngineFile,
    Manifest,
)
from common.spec.model_spec import ModelSpec, Target
from common.store.blob_store import open_store
from common.window import Geometry

FETCHED = 0.9
"""Of RESOLVE, where the checkpoint has to be fetched."""

_FILES_AT_ONCE = 4


def resolve(order: Order, parent: Parent) -> Source:
    """RESOLVE: find the checkpoint, fetch it if it is elsewhere, and hash its files."""
    parent.progress(Stage.RESOLVE, 0.0)
    machine = _find_machine(order.spec)
    found = locate(
        order.spec,
        roots=order.source_roots,
        remote=order.remote,
        work=order.work,
        log=parent.log,
        progress=lambda done: parent.progress(Stage.RESOLVE, FETCHED * done),
    )
    folder, before = found.folder, FETCHED if found.fetched else 0.0
    checkpoint = Checkpoint(folder)
    paths = (*checkpoint.files(), *text_files(folder))
    size_bytes = sum(path.stat().st_size for path in paths)
    files = hash_files(paths, lambda done: parent.progress(Stage.RESOLVE, before + (1 - before) * done, size_bytes))
    found.check(files)
    today = datetime.combine(datetime.now(UTC), time.min, UTC)
    tools = tool_versions(machine, f"{today:%Y-%m-%d}" if asks_time(folder, order.spec.chat_template) else None)
    key = build_key([file.as_engine_file for file in files], order.spec, tools)
    return Source(found.origin, checkpoint, files, tools, key, machine, today)


def make_plan(order: Order, source: Source, parent: Parent) -> Plan:
    """PLAN: read the config, check that everything fits, and refuse now what could only fail later."""
    parent.progress(Stage.PLAN, 0.0)
    spec, config = order.spec, source.checkpoint.config
    geometry = _geometry(spec)
    foreign = spec.target is Target.TENSORRT_LLM  # what reads the checkpoint itself, quantized or not
    model = read_model(config, (*spec.options.ignore_config_fields, *(("quantization_config",) if foreign else ())))
    check_geometry(model.architecture, geometry)
    tensors = ModelTensors(source.checkpoint, model)
    if not foreign:
        tensors.check()
    needs = estimate(model.architecture, geometry, WeightFormat.from_spec(spec), spec.target)
    parent.expect(needs)
    if not foreign:
        check_fits(needs, free_memory_bytes(), free_disk_bytes(order.work), order.work)
    if source.machine is not None:
        check_fits_device(needs, source.machine.free_bytes)
    text = derive_text(source.checkpoint.folder, spec.chat_template, model.architecture.vocabulary, source.today)
    generation = source.checkpoint.generation_config
    ends = {*end_tokens(config, generation, model.architecture.vocabulary), *text.end_token_ids}
    for warning in text.warnings:
        parent.log(f"warning: {warning}")
    parent.log(
        f"{model.architecture.parameters:,} parameters; "
        f"about {needs.weight_bytes / 2**20:,.0f} MiB of weights, {needs.kv_bytes_per_slot / 2**20:,.1f} MiB of keys "
        f"and values a slot, {needs.memory_bytes / 2**20:,.0f} MiB of memory for the build"
    )
    defaults = generation_defaults(generation)
    parent.progress(Stage.PLAN, 1.0)
    return Plan(
        model,
        tensors,
        read_rope(model, geometry),
        geometry,
        text,
        tuple(sorted(ends)),
        defaults,
        order.work / "engine",
    )


def write_files(order: Order, plan: Plan, parent: Parent) -> None:
    """EXPORT and QUANTIZE: the graph, then the weights in the spec's precision, then the tokenizer.

    TensorRT-LLM reads the checkpoint itself: of an engine for it there is the tokenizer alone.
    """
    parent.progress(Stage.EXPORT, 0.0)
    plan.out.mkdir(parents=True, exist_ok=True)
    if order.spec.target is not Target.TENSORRT_LLM:
        _export(order, plan, parent)
    if plan.text.tokenizer_json is not None:
        (plan.out / TOKENIZER_PATH).write_bytes(plan.text.tokenizer_json)


def _export(order: Order, plan: Plan, parent: Parent) -> None:
    spec, weight_format = order.spec, WeightFormat.from_spec(order.spec)
    size_bytes = weight_bytes(plan.model, plan.geometry, weight_format, spec.target)
    # The graph is whole before the first weight is written, and that is the first that the export reports.
    export(
        plan.model,
        plan.tensors,
        plan.geometry,
        weight_format,
        plan.out,
        lambda done: parent.progress(Stage.QUANTIZE, done, size_bytes),
        target=spec.target,
    )


def verify(order: Order, plan: Plan, engine: Engine | None, parent: Parent) -> dict[str, float]:
    """VERIFY: run the engine against the reference and close it; what others execute nobody verifies here."""
    parent.progress(Stage.VERIFY, 0.0)
    if engine is None:
        return {}
    try:
        figures = verification.verify(
            engine,
            plan.tensors,
            plan.model,
            plan.rope,
            plan.geometry,
            WeightFormat.from_spec(order.spec),
            lambda done: parent.progress(Stage.VERIFY, done),
        )
    finally:
        engine.close()
    parent.log("verified: " + ", ".join(f"{name} {value:.3g}" for name, value in figures.items()))
    return figures


def publish(order: Order, plan: Plan, files: Iterable[EngineFile], parent: Parent) -> None:
    """PUBLISH: store the files, several at once. The version itself is the worker's to publish."""
    parent.progress(Stage.PUBLISH, 0.0)
    store = open_store(order.store_url)
    files = tuple(files)
    total = sum(file.size_bytes for file in files)
    read = _share_of(total, lambda done: parent.progress(Stage.PUBLISH, done, total))
    with ThreadPoolExecutor(_FILES_AT_ONCE) as threads:
        puts = [threads.submit(store.put, plan.out / file.path, file.digest, read) for file in files]
        for put in puts:
            put.result()


def describe(order: Order, source: Source, plan: Plan, figures: dict[str, float]) -> Manifest:
    """The manifest of the engine, but for its version, which is counted when it is published."""
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
        kv_bytes_per_slot=kv_bytes_per_slot(plan.architecture, plan.geometry, spec.precision),
        weight_bytes=_weight_bytes(source, plan),
        tolerance=figures.get("allowed_error_largest"),
        build_key=source.key,
        source_files=tuple(file.as_engine_file for file in source.files),
        tool_versions=source.tools,
        files=files,
        verification=figures,
        hardware=_hardware(source, spec),
        warnings=plan.text.warnings,
    )


def _digest_files(plan: Plan, target: Target) -> tuple[EngineFile, ...]:
    paths = [path for name in sorted(ENGINE_PATHS[target]) if (path := plan.out / name).exists()]
    return tuple(
        EngineFile(
            path=path.name, media_type=MEDIA_TYPES[path.name], digest=digest_file(path), size_bytes=path.stat().st_size
        )
        for path in paths
    )


def _weight_bytes(source: Source, plan: Plan) -> int:
    written = plan.out / WEIGHTS_PATH
    paths = [written] if written.exists() else source.checkpoint.weight_files
    return sum(path.stat().st_size for path in paths)


def _find_machine(spec: ModelSpec) -> Machine | None:
    """The machine that a target is compiled for; None where it is not compiled for any."""
    if spec.target is not Target.TENSORRT:
        return None
    machine = find_machine()
    check_asked(spec.hardware, machine)
    return machine


def _hardware(source: Source, spec: ModelSpec) -> Hardware | None:
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


def _geometry(spec: ModelSpec) -> Geometry:
    cache = spec.cache
    return Geometry(cache.sink_tokens, cache.window_tokens, cache.chunk_tokens, cache.max_slots)


def _share_of(total: int, progress: Callable[[float], None]) -> Callable[[int], None]:
    """Count bytes and report their share of `total`; many threads may, and the reports are in order."""
    done, turn = 0, Lock()

    def read(size_bytes: int) -> None:
        nonlocal done
        with turn:
            done += size_bytes
            progress(min(1.0, done / max(1, total)))

    return read
