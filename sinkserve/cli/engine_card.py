"""What `sinkserve engines show` says of an engine."""

from __future__ import annotations

from collections.abc import Mapping

from rich.markup import escape

from sinkserve.cli.build.builds import spec_facts
from sinkserve.cli.terminal import console
from sinkserve.engine.v1.engine_pb2 import Engine, EngineManifest, Hardware

_TOOLS = {
    EngineManifest.TOOLS_BY_TEMPLATE: "as the chat template has them",
    EngineManifest.TOOLS_PLAIN: "in a plain form: the chat template knows none",
    EngineManifest.TOOLS_NONE: "none",
}


def facts(engine: Engine) -> tuple[tuple[str, str], ...]:
    """What is said of an engine, name and value, in rich markup."""
    manifest = engine.manifest
    return (
        ("engine", f"[bold]{escape(engine.reference)}[/]"),
        ("aliases", escape(" ".join(engine.aliases))),
        ("digest", engine.digest),
        ("model", f"{manifest.family}, {console.parameters(manifest.parameters)}, {manifest.layers} layers"),
        *spec_facts(engine.spec),
        ("trained context", f"{manifest.trained_context_tokens} tokens"),
        ("memory per slot", console.size(manifest.kv_bytes_per_slot)),
        ("hardware", escape(_hardware(manifest.hardware)) if manifest.HasField("hardware") else ""),
        ("takes", "text and token ids" if manifest.accepts_text else "token ids only"),
        ("tools", _TOOLS.get(manifest.tools, "")),
        ("files", ", ".join(f"{escape(file.path)} {console.size(file.size_bytes)}" for file in manifest.files)),
        ("compiled", _network(manifest.network)),
        ("signed", "yes" if engine.signed else "no"),
        ("verified on", escape(manifest.verified_on)),
        ("verified", ", ".join(f"{name} {value:.3g}" for name, value in sorted(manifest.verification.items()))),
        ("sinks get", _sinks(manifest.verification)),
        ("warnings", escape("\n".join(manifest.warnings))),
        ("published", console.local_time(engine.create_time)),
    )


def _sinks(figures: Mapping[str, float]) -> str:
    """How much attention the first tokens get, where the build measured it: what keeping them buys."""
    if "sink_attention" not in figures:
        return ""
    mean, largest, even = (figures[f"sink_attention{part}"] for part in ("", "_largest", "_even"))
    return f"{mean:.0%} of the attention, {largest:.0%} in one layer; {even:.1%} if all tokens got the same"


def _network(layers: Mapping[str, int]) -> str:
    """The network that was compiled: its layers by kind, most first."""
    kinds = sorted(layers.items(), key=lambda item: (-item[1], item[0]))
    shown = ", ".join(f"{count} {kind.lower().replace('_', ' ')}" for kind, count in kinds)
    return f"{sum(layers.values())} layers: {shown}" if layers else ""


def _hardware(hardware: Hardware) -> str:
    """What the engine was compiled on, or for; `--json` has what else it runs on."""
    if hardware.compute_capabilities:
        capabilities = ", ".join(hardware.compute_capabilities)
        return (
            f"compiled without a GPU, for compute capability {capabilities}; TensorRT-RTX {hardware.tensorrt_version}, "
            f"a driver for CUDA {hardware.cuda_version.partition('.')[0]}, {hardware.platform}"
        )
    return (
        f"{hardware.gpu}, compute capability {hardware.compute_capability}, TensorRT {hardware.tensorrt_version}, "
        f"CUDA {hardware.cuda_version}, {hardware.platform}"
    )
