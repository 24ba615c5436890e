"""The stages of a build, each a function of the pipeline: what it does to files, and what it reports."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from builder_service import verify as verification
from builder_service.build_key import build_key, tool_versions
from builder_service.builds import Stage
from builder_service.checkpoint import Checkpoint
from builder_service.estimate import check_fits, estimate, kv_bytes_per_slot
from builder_service.export import export
from builder_service.families import read_model, read_rope
from builder_service.generation import end_tokens, generation_defaults
from builder_service.machine import free_disk_bytes, free_memory_bytes
from builder_service.messages import Order
from builder_service.model import Model, check_geometry
from builder_service.source import SourceFile, find_folder, hash_files, text_files
from builder_service.template import DerivedText, derive_text
from builder_service.tensors import ModelTensors
from common.digest import digest_file
from common.errors import FailedPrecondition, Reason
from common.manifest import (
    GRAPH_PATH,
    TOKENIZER_PATH,
    WEIGHTS_PATH,
    Architecture,
    EngineFile,
    Manifest,
    Rope,
)
from common.onnxruntime_engine import OnnxRuntimeEngine
from common.spec import ModelSpec, Target
from common.store import open_store
from common.window import Geometry

_MEDIA_TYPES = {
    GRAPH_PATH: "application/vnd.onnx",
    WEIGHTS_PATH: "application/octet-stream",
    TOKENIZER_PATH: "application/json",
}


class Parent(Protocol):
    """The worker, as a build sees it."""

    def progress(self, stage: Stage, done: float) -> None:
        """`done` of `stage` is done, 0 to 1."""

    def log(self, text: str) -> None:
        """A line for whoever watches."""

    def may_build(self, key: str) -> bool:
        """Ask whether to build this key; False: somebody has, or does."""

    def may_store(self, digests: tuple[str, ...]) -> bool:
        """Ask whether to store these blobs; nobody deletes them after that."""


@dataclass(frozen=True)
class Source:
    """A checkpoint, read and digested."""

    checkpoint: Checkpoint
    files: tuple[SourceFile, ...]
    tools: dict[str, str]
    key: str


@dataclass(frozen=True)
class Plan:
    """What will be built, and where its files go before they are stored."""

    model: Model
    tensors: ModelTensors
    rope: Rope
    geometry: Geometry
    text: DerivedText
    out: Path

    @property
    def architecture(self) -> Architecture:
        """Shapes of the model."""
        return self.model.architecture


def resolve(order: Order, parent: Parent) -> Source:
    """RESOLVE: find the checkpoint and hash its files."""
    parent.progress(Stage.RESOLVE, 0.0)
    folder = find_folder(order.spec.source.uri, order.source_roots)
    checkpoint = Checkpoint(folder)
    paths = (*checkpoint.files(), *text_files(folder))
    files = hash_files(paths, lambda done: parent.progress(Stage.RESOLVE, done))
    tools = tool_versions()
    key = build_key([file.as_engine_file for file in files], order.spec, tools)
    return Source(checkpoint, files, tools, key)


def make_plan(order: Order, source: Source, parent: Parent) -> Plan:
    """PLAN: read the config, check that everything fits, and refuse now what could only fail later."""
    parent.progress(Stage.PLAN, 0.0)
    spec, config = order.spec, source.checkpoint.config
    if spec.target is Target.TENSORRT:
        raise FailedPrecondition(
            Reason.ENGINE_INCOMPATIBLE, "this builder has no TensorRT to compile for target tensorrt"
        )
    geometry = _geometry(spec)
    model = read_model(config, spec.options.ignore_config_fields)
    check_geometry(model.architecture, geometry)
    tensors = ModelTensors(source.checkpoint, model)
    tensors.check()
    needs = estimate(model.architecture, geometry, spec.precision)
    check_fits(needs, free_memory_bytes(), free_disk_bytes(order.work))
    text = derive_text(source.checkpoint.folder, spec.chat_template, model.architecture.vocabulary, datetime.now(UTC))
    for warning in text.warnings:
        parent.log(f"warning: {warning}")
    parent.log(
        f"{model.architecture.parameters:,} parameters; "
        f"about {needs.weight_bytes / 2**20:,.0f} MiB of weights, {needs.kv_bytes_per_slot / 2**20:,.1f} MiB of keys "
        f"and values a slot, {needs.memory_bytes / 2**20:,.0f} MiB of memory for the build"
    )
    parent.progress(Stage.PLAN, 1.0)
    return Plan(model, tensors, read_rope(model, geometry), geometry, text, order.work / "engine")


def write_files(order: Order, plan: Plan, parent: Parent) -> None:
    """EXPORT and QUANTIZE: the graph, then the weights in the spec's precision, then the tokenizer."""
    parent.progress(Stage.EXPORT, 0.0)
    # The graph is whole before the first weight is written, and that is the first that the export reports.
    export(
        plan.model,
        plan.tensors,
        plan.geometry,
        order.spec.precision,
        plan.out,
        lambda done: parent.progress(Stage.QUANTIZE, done),
    )
    if plan.text.tokenizer_json is not None:
        (plan.out / TOKENIZER_PATH).write_bytes(plan.text.tokenizer_json)


def compile_engine(plan: Plan, parent: Parent) -> OnnxRuntimeEngine:
    """COMPILE: load the graph as a runtime will; what cannot be loaded is not worth verifying."""
    parent.progress(Stage.COMPILE, 0.0)
    engine = OnnxRuntimeEngine(plan.out / GRAPH_PATH, plan.architecture, plan.rope, plan.geometry)
    parent.progress(Stage.COMPILE, 1.0)
    return engine


def verify(order: Order, plan: Plan, engine: OnnxRuntimeEngine, parent: Parent) -> dict[str, float]:
    """VERIFY: run the engine against the reference."""
    parent.progress(Stage.VERIFY, 0.0)
    figures = verification.verify(
        engine,
        plan.tensors,
        plan.model,
        plan.rope,
        plan.geometry,
        order.spec.precision,
        lambda done: parent.progress(Stage.VERIFY, done),
    )
    parent.log("verified: " + ", ".join(f"{name} {value:.3g}" for name, value in figures.items()))
    return figures


def publish(order: Order, plan: Plan, files: Iterable[EngineFile], parent: Parent) -> None:
    """PUBLISH: store the files. The version itself is the worker's to publish."""
    parent.progress(Stage.PUBLISH, 0.0)
    store = open_store(order.store_url)
    files = tuple(files)
    read = _share_of(sum(file.size_bytes for file in files), lambda done: parent.progress(Stage.PUBLISH, done))
    for file in files:
        store.put(plan.out / file.path, file.digest, read)


def describe(order: Order, source: Source, plan: Plan, figures: dict[str, float]) -> Manifest:
    """The manifest of the engine, but for its version, which is counted when it is published."""
    spec, config = order.spec, source.checkpoint.config
    files = _digest_files(plan)
    generation = source.checkpoint.generation_config
    ends = {*end_tokens(config, generation, plan.architecture.vocabulary), *plan.text.end_token_ids}
    return Manifest(
        name=spec.name,
        version=0,
        spec=spec,
        architecture=plan.architecture,
        rope=plan.rope,
        end_token_ids=tuple(sorted(ends)),
        generation=generation_defaults(generation),
        text=plan.text.model,
        kv_bytes_per_slot=kv_bytes_per_slot(plan.architecture, plan.geometry),
        weight_bytes=next(file.size_bytes for file in files if file.path == WEIGHTS_PATH),
        tolerance=figures["allowed_error_largest"],
        build_key=source.key,
        source_files=tuple(file.as_engine_file for file in source.files),
        tool_versions=source.tools,
        files=files,
        verification=figures,
        warnings=plan.text.warnings,
    )


def _digest_files(plan: Plan) -> tuple[EngineFile, ...]:
    paths = sorted(path for path in plan.out.iterdir() if path.name in _MEDIA_TYPES)
    return tuple(
        EngineFile(
            path=path.name,
            media_type=_MEDIA_TYPES[path.name],
            digest=digest_file(path),
            size_bytes=path.stat().st_size,
        )
        for path in paths
    )


def _geometry(spec: ModelSpec) -> Geometry:
    cache = spec.cache
    return Geometry(cache.sink_tokens, cache.window_tokens, cache.chunk_tokens, cache.max_slots)


def _share_of(total: int, progress: Callable[[float], None]) -> Callable[[int], None]:
    """Count bytes and report their share of `total`."""
    done = 0

    def read(size_bytes: int) -> None:
        nonlocal done
        done += size_bytes
        progress(min(1.0, done / max(1, total)))

    return read
