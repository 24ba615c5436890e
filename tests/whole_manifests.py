"""Whole manifests, for engines that nobody built."""

from __future__ import annotations

from common.manifest import Architecture, GenerationDefaults, Manifest, Rope, TextModel, TurnTemplate
from common.spec import CacheGeometry, ModelSpec, Source
from common.window import Geometry
from tests.vocabularies import ASSISTANT, BEGIN, END, SYSTEM, USER

DIGEST = "sha256:" + "0" * 64

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
) -> Manifest:
    """A greedy engine without files; without a `template` it takes token ids only."""
    return Manifest(
        name=name,
        version=1,
        spec=ModelSpec(
            name=name,
            source=Source(uri="nowhere"),
            cache=CacheGeometry(
                sink_tokens=geometry.sinks,
                window_tokens=geometry.window,
                chunk_tokens=geometry.chunk,
                max_slots=geometry.slots,
            ),
        ),
        architecture=Architecture(
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
        ),
        rope=Rope(inverse_frequencies=(1.0, 0.1)),
        end_token_ids=end_token_ids,
        generation=GenerationDefaults(do_sample=False),
        text=TextModel(template=template) if template else None,
        kv_bytes_per_slot=1,
        weight_bytes=1,
        tolerance=1e-4,
        build_key=DIGEST,
        source_files=(),
        tool_versions={},
        files=(),
        verification={},
    )
