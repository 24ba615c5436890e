"""From a published engine to one in memory: refuses what this machine cannot run before reading its files."""

from __future__ import annotations

from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import psutil
import structlog

from common.digest import digest_file, digest_hex
from common.engine.engine import Engine
from common.engine.onnxruntime_engine import OnnxRuntimeEngine
from common.engine.tensorrt.library import LIBRARIES, use
from common.engine.tensorrt.machine import find_machine
from common.errors import Reason, ResourceExhausted
from common.spec.hardware import check_runs, warnings
from common.spec.manifest import GRAPH_PATH, PLAN_PATH, TOKENIZER_PATH, EngineFile, Manifest
from common.spec.model_spec import Precision, Target
from common.spec.published_engine import PublishedEngine
from common.store.blob_store import BlobStore
from runtime_service.decoding.text import Text
from runtime_service.engines.pinned_checkpoint import find_checkpoint
from runtime_service.engines.verified_here import verify_here
from runtime_service.recompute.tensorrt_llm_generator import TensorRtLlmGenerator
from runtime_service.recompute.tensorrt_llm_model import LlmArguments
from runtime_service.recompute.token_generator import LoadedGenerator
from runtime_service.settings import RuntimeSettings

_CGROUP = Path("/sys/fs/cgroup")
_LLM_DTYPES = {Precision.FP16: "float16", Precision.BF16: "bfloat16"}

log = structlog.get_logger()


@dataclass(frozen=True)
class Loaded:
    """An engine and its text."""

    engine: Engine
    text: Text
    margin: float | None = None
    """How many times as far off as it is in its golden streams it might be; None: it has none."""

    @property
    def slots(self) -> int:
        """Slots that it has here."""
        return self.engine.geometry.slots


class Loader:
    """Loads engines from a store. Files lie in `folder` while in use and after: they are checked at every load."""

    def __init__(self, store: BlobStore, folder: Path, settings: RuntimeSettings) -> None:
        self._store = store
        self._folder = folder
        self._settings = settings

    def load(self, published: PublishedEngine) -> Loaded | LoadedGenerator:
        """Load an engine; blocks, and is called by one thread at a time.

        Raises FailedPrecondition: ENGINE_INCOMPATIBLE for what cannot be loaded here, ENGINE_UNVERIFIED for what does
        not compute here what it ought to. ResourceExhausted (OUT_OF_MEMORY) if it does not fit, DataLoss
        (STORE_CORRUPT) for files that are not what they were.
        """
        if published.manifest.spec.target is Target.TENSORRT_LLM:
            return self._load_generator(published)
        check_machine(published.manifest)
        folder, manifest = self.place(published), published.manifest
        with ExitStack() as opened:
            engine = opened.enter_context(closing(self._open(folder, manifest)))
            loaded = Loaded(engine, _text(folder, manifest), verify_here(engine, folder, manifest))
            opened.pop_all()
        return loaded

    def place(self, published: PublishedEngine) -> Path:
        """The folder with all files of an engine, each checked; raises DataLoss (STORE_CORRUPT)."""
        folder = self._folder / digest_hex(published.digest)
        for file in published.manifest.files:
            path = folder / file.path
            if not _is_right(path, file):
                path.unlink(missing_ok=True)
                path.parent.mkdir(parents=True, exist_ok=True)
                self._store.place(file.digest, path)
        return folder

    def _open(self, folder: Path, manifest: Manifest) -> Engine:
        shapes, rope, geometry = manifest.architecture, manifest.rope, manifest.geometry
        if manifest.spec.target is Target.ONNXRUNTIME:
            return OnnxRuntimeEngine(folder / GRAPH_PATH, shapes, rope, geometry, threads=self._settings.threads)
        use(library := LIBRARIES[manifest.spec.target])
        from common.engine.tensorrt.engine import TensorRtEngine  # noqa: PLC0415 - needs packages of GPU machines

        share = self._settings.gpu_memory_share
        return TensorRtEngine(folder / PLAN_PATH, shapes, rope, geometry, memory_share=share, library=library)

    def _load_generator(self, published: PublishedEngine) -> LoadedGenerator:
        manifest = published.manifest
        arguments = llm_arguments(manifest, find_checkpoint(manifest))
        text = _text(self.place(published), manifest)
        stride = manifest.spec.options.tensorrt_llm.stride_tokens
        return LoadedGenerator(TensorRtLlmGenerator(arguments), text, manifest.geometry.slots, stride)


def check_machine(manifest: Manifest) -> None:
    """Raise FailedPrecondition or ResourceExhausted if this machine cannot run the engine; no file is read for it."""
    if manifest.spec.target is Target.ONNXRUNTIME:
        check_memory(manifest, available_memory_bytes())
        return
    machine = find_machine(LIBRARIES[manifest.spec.target])
    assert manifest.hardware is not None, manifest.reference
    check_runs(manifest.reference, manifest.hardware, machine)
    for warning in warnings(manifest.hardware, machine):
        log.warning("engine.elsewhere", engine=manifest.reference, warning=warning)


def check_memory(manifest: Manifest, available_bytes: int) -> None:
    """Raise ResourceExhausted (OUT_OF_MEMORY) unless weights and cache fit."""
    needed = manifest.weight_bytes + manifest.kv_bytes_per_slot * manifest.geometry.slots
    if needed > available_bytes:
        raise ResourceExhausted(
            Reason.OUT_OF_MEMORY,
            f"{manifest.reference} needs about {needed >> 20} MiB ({manifest.weight_bytes >> 20} of weights, "
            f"{manifest.geometry.slots} slots of {manifest.kv_bytes_per_slot >> 20}), and "
            f"{available_bytes >> 20} MiB are available; unload another, or build it with fewer slots",
            needed_bytes=needed,
            available_bytes=available_bytes,
        )


def available_memory_bytes(cgroup: Path = _CGROUP) -> int:
    """Memory that this process may still take: the machine's, or what its control group leaves."""
    available = int(psutil.virtual_memory().available)
    try:
        limit, used = ((cgroup / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return available
    return min(available, int(limit) - int(used)) if limit.isdigit() else available


def llm_arguments(manifest: Manifest, checkpoint: Path) -> LlmArguments:
    """What TensorRT-LLM is told of an engine."""
    options, geometry = manifest.spec.options.tensorrt_llm, manifest.geometry
    return LlmArguments(
        model=checkpoint,
        version=options.version,
        dtype=_LLM_DTYPES[manifest.spec.precision],
        max_slots=geometry.slots,
        max_tokens=geometry.sinks + geometry.window,
        tensor_parallel=options.tensor_parallel,
        pipeline_parallel=options.pipeline_parallel,
        quantization=options.quantization,
        kv_memory_fraction=options.kv_memory_fraction,
    )


def _text(folder: Path, manifest: Manifest) -> Text:
    tokenizer = folder / TOKENIZER_PATH
    return Text(tokenizer.read_bytes() if tokenizer.exists() else None, manifest)


def _is_right(path: Path, file: EngineFile) -> bool:
    return path.exists() and path.stat().st_size == file.size_bytes and digest_file(path) == file.digest
