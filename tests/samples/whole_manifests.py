"""Whole manifests, for engines that nobody built."""

from __future__ import annotations

from common.spec.hardware import Hardware
from common.spec.manifest import Architecture, GenerationDefaults, Manifest, Rope, TextModel, TurnTemplate
from common.spec.model_spec import CacheGeometry, ModelSpec, Source
from common.spec.target_options import HardwareCompatibility
from common.window import Geometry
from tests.samples.vocabularies import ASSISTANT, BEGIN, END, SYSTEM, USER

DIGEST = "sha256:" + "0" * 64

HARDWARE = Hardware(
    gpu="NVIDIA H200",
    compute_capability="9.0",
    tensorrt_version="11.4.0.106",
    cuda_version="13.0",
    hardware_compatibility=HardwareCompatibility.NONE,
    version_compatible=False,
    platform="linux-x86_64",
)
"""What an engine needs that was compiled for one GPU and one version of TensorRT."""

RTX_HARDWARE = HARDWARE.model_copy(
    update={
        "gpu": "",
        "compute_capability": "",
        "compute_capabilities": ("8.6", "12.0"),
        "tensorrt_version": "1.7.1.116",
    }
)
"""The same of TensorRT-RTX, which compiled it without a GPU for two kinds of them."""

TEMPLATE = TurnTemplate(
    opening=(BEGIN,),
    system_before=(BEGIN, SYSTEM),
    system_after=(END,),
    user_before=(USER,),
    user_after=(END,),
    assistant_before=(ASSISTANT,),
    assistant_after=(END,),
)


def make_manifest(
    geometry: Geometry,
    *,
    vocabulary: int = 64,
    name: str = "demo",
    template: TurnTemplate | None = None,
    end_token_ids: tuple[int, ...] = (),
    layers: int = 1,
    hardware: Hardware | None = None,
) -> Manifest:
    """A greedy engine without files; without a `template` it takes token ids only, without `hardware` any machine."""
    return Manifest(
        name=name,
        version=1,
        spec=_spec(name, geometry),
        architecture=_architecture(layers, vocabulary),
        rope=Rope(inverse_frequencies=(1.0, 0.1)),
        end_token_ids=end_token_ids,
        generation=GenerationDefaults(do_sample=False),
        text=TextModel(template=template) if template else None,
        hardware=hardware,
        kv_bytes_per_slot=1,
        weight_bytes=1,
        tolerance=1e-4,
        build_key=DIGEST,
        source_files=(),
        tool_versions={},
        files=(),
        verification={},
    )


def _spec(name: str, geometry: Geometry) -> ModelSpec:
    cache = CacheGeometry(
        sink_tokens=geometry.sinks,
        window_tokens=geometry.window,
        chunk_tokens=geometry.chunk,
        max_slots=geometry.slots,
    )
    return ModelSpec(name=name, source=Source(uri="nowhere"), cache=cache)


def _architecture(layers: int, vocabulary: int) -> Architecture:
    return Architecture(
        family="llama",
        layers=layers,
        hidden=4,
        heads=1,
        kv_heads=1,
        head_dim=4,
        intermediate=4,
        vocabulary=vocabulary,
        trained_context=1 << 20,
        parameters=1,
    )
