"""A published engine to measure: loaded as a runtime loads it, and with caches of other sizes where needed.

The cache is part of an engine's graph, and no engine is built with one that goes beyond the trained context. The caches
that the paper compares with do go beyond it: so the graph is written again with another cache, from the checkpoint's
config.json, to be used with the engine's own weights. Before that, the engine's own graph is written again as a check:
it must be the same, byte for byte.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Self

from tokenizers import Tokenizer

from builder_service.families.registry import read_model
from builder_service.model.model import Model
from builder_service.model.tensors import ModelTensors
from builder_service.model.weight_format import WeightFormat
from builder_service.pipeline.estimate import kv_bytes_per_slot
from builder_service.pipeline.export import weight_bytes, write_model, write_resized
from builder_service.sources.locate import open_source
from builder_service.sources.uri import Remote
from common.catalog.catalog import Catalog
from common.db.schema import open_database
from common.digest import digest_file
from common.engine.engine import Engine
from common.engine.onnxruntime_engine import OnnxRuntimeEngine
from common.errors import FailedPrecondition, Reason, ResourceExhausted
from common.settings import SharedSettings
from common.spec.manifest import GRAPH_PATH, TOKENIZER_PATH, WEIGHTS_PATH, Manifest
from common.spec.model_spec import Precision, Target
from common.store.blob_store import open_store
from common.window import Geometry
from runtime_service.engines.loader import Loaded, Loader, available_memory_bytes
from runtime_service.settings import RuntimeSettings


class Workbench:
    """An engine, its text, and engines of the same weights with other caches. Closed by `close`."""

    def __init__(self, manifest: Manifest, loaded: Loaded, folder: Path, remote: Remote, threads: int = 0) -> None:
        """`folder` has the engine's files; `remote` is how the checkpoint's config.json is read from elsewhere."""
        self.manifest = manifest
        self.engine: Engine = loaded.engine
        self.text = loaded.text
        self._folder = folder
        self._remote = remote
        self._threads = threads
        self._model: Model | None = None

    @classmethod
    def open(cls, reference: str, shared: SharedSettings, settings: RuntimeSettings, remote: Remote) -> Self:
        """Find an engine in the catalog of `shared` and load it, as a runtime with these settings would.

        Raises what `Catalog.resolve` and `Loader.load` do, and FailedPrecondition (ENGINE_INCOMPATIBLE) for an engine
        that gives no logits.
        """
        store = open_store(shared.store, shared.store_timeout_s)
        database = open_database(shared.database, shared.database_timeout_s)
        try:
            published = Catalog(database, store).resolve(reference)
        finally:
            database.close()
        loader = Loader(store, shared.home.resolve() / "engines", settings)
        if published.manifest.spec.target is Target.TENSORRT_LLM:
            message = f"{published.reference} is for tensorrt_llm, which gives tokens and no logits to measure"
            raise FailedPrecondition(Reason.ENGINE_INCOMPATIBLE, message, engine=published.reference)
        loaded = loader.load(published)
        assert isinstance(loaded, Loaded), published.reference
        return cls(published.manifest, loaded, loader.place(published), remote, settings.threads)

    @property
    def capacity(self) -> int:
        """Tokens that the engine keeps: its sinks and its window."""
        return self.manifest.geometry.sinks + self.manifest.geometry.window

    def encode(self, text: str) -> list[int]:
        """Tokens of a text in which control tokens count as such, behind the first tokens of a conversation.

        Raises FailedPrecondition (TEXT_UNSUPPORTED) for an engine without a tokenizer.
        """
        path = self._folder / TOKENIZER_PATH
        if not path.exists():
            message = f"{self.manifest.reference} takes token ids only: it has no tokenizer to read a text with"
            raise FailedPrecondition(Reason.TEXT_UNSUPPORTED, message, engine=self.manifest.reference)
        tokens: list[int] = Tokenizer.from_file(str(path)).encode(text, add_special_tokens=False).ids
        opening = list(self.text.opening())
        return tokens if tokens[: len(opening)] == opening else opening + tokens

    @contextmanager
    def resized(self, geometry: Geometry) -> Iterator[Engine]:
        """The same engine with the cache `geometry`, as long as the context is open; rotation stays the engine's.

        Raises FailedPrecondition (ENGINE_INCOMPATIBLE) where that cannot be, ResourceExhausted (OUT_OF_MEMORY), and
        what reading the checkpoint's config.json does.
        """
        model = self._checked_model()
        self._check_memory(geometry, self.manifest.weight_bytes)
        with tempfile.TemporaryDirectory(prefix=".resized-", dir=self._folder.parent) as out:
            graph = self._write_graph(model, geometry, Path(out))
            (Path(out) / WEIGHTS_PATH).hardlink_to(self._folder / WEIGHTS_PATH)
            shapes, rope = self.manifest.architecture, self.manifest.rope
            engine = OnnxRuntimeEngine(graph, shapes, rope, geometry, threads=self._threads)
            try:
                yield engine
            finally:
                engine.close()

    @contextmanager
    def in_fp32(self) -> Iterator[Engine]:
        """The checkpoint in fp32 with one slot of the engine's cache, as long as the context is open.

        Raises what `resized` does, and what reading the checkpoint's weights does.
        """
        model, spec = self._checked_model(), self.manifest.spec
        geometry = replace(self.engine.geometry, slots=1)
        exact = WeightFormat(Precision.FP32)
        with (
            tempfile.TemporaryDirectory(prefix=".fp32-", dir=self._folder.parent) as out,
            open_source(spec.source, self._remote) as checkpoint,
        ):
            self._check_memory(geometry, weight_bytes(model, geometry, exact))
            tensors = ModelTensors(checkpoint.tensors, model)
            write_model(model, tensors, geometry, exact, Path(out), lambda _: None)
            graph, shapes, rope = Path(out) / GRAPH_PATH, self.manifest.architecture, self.manifest.rope
            with closing(OnnxRuntimeEngine(graph, shapes, rope, geometry, threads=self._threads)) as engine:
                yield engine

    def close(self) -> None:
        """Free the engine."""
        self.engine.close()

    def _checked_model(self) -> Model:
        """The model as the checkpoint's config.json has it, if it is what the engine was built from."""
        if self._model is None:
            self._model = self._read_model()
        return self._model

    def _read_model(self) -> Model:
        spec = self.manifest.spec
        if spec.target is not Target.ONNXRUNTIME:
            message = f"the cache of an engine for {spec.target} is compiled into it: build one for onnxruntime"
            raise FailedPrecondition(Reason.ENGINE_INCOMPATIBLE, message, engine=self.manifest.reference)
        with open_source(spec.source, self._remote) as checkpoint:
            model = read_model(checkpoint.config, spec.options.ignore_config_fields)
        with tempfile.TemporaryDirectory(prefix=".resized-", dir=self._folder.parent) as out:
            written = digest_file(self._write_graph(model, self.manifest.geometry, Path(out)))
        if written != {file.path: file.digest for file in self.manifest.files}[GRAPH_PATH]:
            message = f"{self.manifest.reference} was built from another config.json or by another release: build again"
            raise FailedPrecondition(Reason.ENGINE_INCOMPATIBLE, message, engine=self.manifest.reference)
        return model

    def _write_graph(self, model: Model, geometry: Geometry, out: Path) -> Path:
        spec = self.manifest.spec
        weight_format = WeightFormat.from_spec(spec)
        if spec.precision is Precision.KEEP:
            with open_source(spec.source, self._remote) as checkpoint:
                weight_format = ModelTensors(checkpoint.tensors, model).weight_format(spec)
        return write_resized(model, geometry, weight_format, out)

    def _check_memory(self, geometry: Geometry, weights: int) -> None:
        shapes, weight_format = self.manifest.architecture, WeightFormat.from_spec(self.manifest.spec)
        needed = weights + geometry.slots * kv_bytes_per_slot(shapes, geometry, weight_format)
        if needed > (available := available_memory_bytes()):
            message = f"a cache of {geometry.rows} rows needs about {needed >> 20} MiB with the weights, and "
            message += f"{available >> 20} MiB are available"
            raise ResourceExhausted(Reason.OUT_OF_MEMORY, message, needed_bytes=needed, available_bytes=available)
