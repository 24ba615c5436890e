"""The parts of docs/use/specs.md that the code says; those that list fields are in `field_tables`."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from builder_service.model.weight_format import WeightFormat
from builder_service.pipeline.estimate import Estimate, kv_bytes_per_slot
from builder_service.sources.locate import open_source
from builder_service.sources.uri import Remote
from common.errors import InvalidArgument
from common.spec.manifest import Architecture
from common.spec.model_spec import PLAN_TARGETS, PRECISIONS, ModelSpec, Precision, Target
from common.spec.yaml_file import parse_spec, read_spec_file
from common.window import Geometry
from sinkserve.cli.app import make_app
from sinkserve.cli.terminal.suggest import read_needs, suit_sinks, suit_window
from tests.pages.field_tables import fields, table

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "demo"
HERE = "/home/you/sinkserve"  # where the page says that the repository is
PRECISION_WORDS = {
    Precision.FP32: "32-bit floats",
    Precision.FP16: "16-bit floats, 11 bits of them mantissa",
    Precision.BF16: "16-bit floats with the range of 32-bit ones",
    Precision.INT8: "8-bit weights with a scale for each output; for ONNX Runtime in a basis without outliers",
    Precision.INT4: (
        "4-bit weights in blocks of 32, 64 or 128, a scale for each block and for ONNX Runtime a zero point; "
        "8 bits where 4 cost most"
    ),
    Precision.FP8: "8-bit floats (e4m3) in the layers, and so is what they multiply; from compute capability 8.9 on",
    Precision.KEEP: "the weights of a quantized checkpoint (GGUF, AWQ, GPTQ and more) as they are; its default",
}
CONTEXTS = (256, 1024, 2048, 4096, 8192, 131_072)
WRONG = (
    "precison: int8",
    "cache: {windows_tokens: 252}",
    "options: {tensorrt: {workspace: 512}}",
    "colour: red",
    "precision: int9",
    "precision: fp16",
    "cache: {window_tokens: 0}",
    "cache: {window_tokens: true}",
    "options: {tensorrt: {optimization_level: 5}}",
    "options: {onnxruntime: {int4_block: 64}}",
    "cache: {sink_tokens: 4, window_tokens: 300}",
)
LLAMA = Architecture(
    family="llama",
    layers=16,
    hidden=2048,
    heads=32,
    kv_heads=8,
    head_dim=64,
    intermediate=8192,
    vocabulary=128_256,
    trained_context=131_072,
    parameters=1_235_814_400,
)
"""Llama 3.2 1B."""


def precisions() -> str:
    """Which target takes which precision."""
    rows = [
        (
            f"`{precision}`",
            PRECISION_WORDS[precision],
            *(_takes(target, precision) for target in Target),
            _cached(precision),
        )
        for precision in Precision
    ]
    return table(("precision", "weights", *(f"`{target}`" for target in Target), "a cached number"), rows)


def _takes(target: Target, precision: Precision) -> str:
    return "yes" if precision in PRECISIONS[target] else "no"


def _cached(precision: Precision) -> str:
    one = LLAMA.model_copy(update={"layers": 1, "kv_heads": 1, "head_dim": 1})
    takers = [target for target in Target if precision in PRECISIONS[target]]
    forms = {target: WeightFormat(precision, on_gpu=target in PLAN_TARGETS) for target in takers}
    sizes = [kv_bytes_per_slot(one, Geometry(0, 1, 1, 1), form) // 2 for form in forms.values()]
    return f"{', on GPUs '.join(map(str, dict.fromkeys(sizes)))} bytes"


def suggestions() -> str:
    """What `spec init` takes for which trained context."""
    rows = [
        (f"{context:,}", f"{(sinks := suit_sinks(context, 0)):,}", f"{suit_window(context, sinks):,}")
        for context in CONTEXTS
    ]
    return table(("trained context", "`sink_tokens`", "`window_tokens`"), rows)


def init() -> str:
    """What `spec init` writes for the shipped checkpoint."""
    written = _printed("spec", "init", str(DEMO / "model"))
    source = next(line for line in written.splitlines() if line.startswith("source:"))
    shown = f"{'source: {uri: ./demo/model}':<{source.index('#')}}{source[source.index('#') :]}"
    return f"```yaml\n{written.replace(source, shown)}```"


def check() -> str:
    """What `spec check` says of the shipped spec."""
    return f"```\n{_printed('spec', 'check', str(DEMO / 'spec.yaml')).replace(str(ROOT), HERE)}```"


def _printed(*args: str) -> str:
    ran = CliRunner().invoke(make_app(args), args)
    assert ran.exit_code == 0, ran.output
    return "\n".join(line.rstrip() for line in ran.stdout.splitlines()) + "\n"


def errors() -> str:
    """What is said of wrong lines in a spec for the shipped checkpoint."""
    return table(("a line", "what is said"), [(f"`{line}`", f"`{said(line)}`") for line in WRONG])


def said(line: str) -> str:
    """The error of a spec with this line."""
    try:
        _needed(parse_spec(f"name: demo\nsource: {{uri: ./model}}\n{line}", DEMO))
    except InvalidArgument as error:
        return error.message
    raise AssertionError(f"{line} is right")


def _needed(spec: ModelSpec) -> tuple[Architecture, Estimate]:
    with open_source(spec.source, Remote()) as checkpoint:
        return read_needs(checkpoint, spec)


def memory() -> str:
    """The formula of a slot's memory with numbers put in."""
    demo = read_spec_file(DEMO / "spec.yaml")
    shapes, needs = _needed(demo)
    lines = [_worked("demo/spec.yaml", shapes, demo.geometry, demo.precision)]
    assert f"= {needs.kv_bytes_per_slot:,} bytes" in lines[0]
    lines.append(_worked("Llama 3.2 1B in bf16", LLAMA, Geometry(256, 4096, 64, 8), Precision.BF16))
    return "```\n" + "\n\n".join(lines) + "\n```"


def _worked(title: str, shapes: Architecture, geometry: Geometry, precision: Precision) -> str:
    number = 2 if precision in (Precision.FP16, Precision.BF16) else 4
    rows = geometry.sinks + geometry.window + 2 * (geometry.chunk - 1)
    slot = 2 * number * shapes.layers * shapes.kv_heads * shapes.head_dim * rows
    assert slot == kv_bytes_per_slot(shapes, geometry, WeightFormat(precision))
    return (
        f"{title}\n"
        f"  rows of a slot = {geometry.sinks} + {geometry.window} + 2 * ({geometry.chunk} - 1) = {rows:,}\n"
        f"  a slot = 2 * {number} * {shapes.layers} * {shapes.kv_heads} * {shapes.head_dim} * {rows:,}"
        f" = {slot:,} bytes\n"
        f"  {geometry.slots} slots = {slot * geometry.slots:,} bytes"
    )


PARTS = {
    "init": init,
    "suggestions": suggestions,
    "check": check,
    "fields": fields,
    "precisions": precisions,
    "errors": errors,
    "memory": memory,
}
"""Makers of the parts by the name that the page gives them."""
