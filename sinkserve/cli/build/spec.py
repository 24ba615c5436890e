"""`sinkserve spec`: write a spec that suits a checkpoint, and check one before it is built."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
import yaml
from rich.markup import escape

from builder_service.pipeline.contents import read_contents, read_tensors, settled
from builder_service.pipeline.estimate import Estimate
from builder_service.sources.locate import open_source
from builder_service.sources.uri import Folder, read_adapter_place, read_place
from common.spec.manifest import Architecture
from common.spec.model_spec import PRECISIONS, ModelSpec, Precision, Source, Target
from common.spec.rtx_gpus import RTX_GPUS
from common.spec.target_options import HardwareCompatibility
from common.spec.yaml_file import read_spec_file
from sinkserve.cli.build.submit import read_changes, shown_source
from sinkserve.cli.terminal import console
from sinkserve.cli.terminal.failures import WRONG, Failure, explained
from sinkserve.cli.terminal.options import Adapter, own_remote
from sinkserve.cli.terminal.suggest import SpecChoices, Suggestion, read_needs, source_of, suggest_spec

app = typer.Typer(help="Write and check specs.")

_COMMENT_COLUMN = 32
_OPTIONS = {
    Target.TENSORRT: {
        "workspace_mib": "most memory for a layer at work; 0: all of the GPU's",
        "optimization_level": "0 builds quickest, 5 runs fastest",
        "hardware_compatibility": " | ".join(HardwareCompatibility),
        "version_compatible": "runs under later TensorRT too, maybe slower",
        "int4_block": "of precision int4: inputs that share a scale",
    },
    Target.TENSORRT_RTX: {
        "compute_capabilities": "GPUs that are to run it: " + " | ".join(RTX_GPUS),
        "int4_block": "of precision int4: inputs that share a scale",
    },
    Target.TENSORRT_LLM: {
        "version": "of TensorRT-LLM, where it is to run",
        "tensor_parallel": "GPUs that share each layer",
        "pipeline_parallel": "groups of them, each with some of the layers",
        "quantization": "FP8 | W4A16_AWQ | W8A16 | NVFP4; empty: any",
        "kv_memory_fraction": "share of free GPU memory for keys and values",
        "stride_tokens": "how far the window slides at once; 0: a quarter of it",
    },
}
"""Comments beside the options that only one target has."""


@app.command()
def init(  # noqa: PLR0917 - typer reads a command's options from its parameters
    folder: Annotated[
        str, typer.Argument(metavar="FOLDER", help="A checkpoint folder or GGUF file, or hf://ORG/REPO.")
    ],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write; else stdout.")] = None,
    adapter: Adapter = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the engine; else the folder's.")] = None,
    target: Annotated[Target, typer.Option("--target", help="Who executes the engine.")] = Target.ONNXRUNTIME,
    precision: Annotated[Precision | None, typer.Option("--precision", help="How weights are held.")] = None,
    window: Annotated[int | None, typer.Option("--window", min=1, help="Recent tokens that are seen.")] = None,
    sinks: Annotated[int | None, typer.Option("--sinks", min=0, help="First tokens that are kept.")] = None,
) -> None:
    """Write a commented spec that suits a checkpoint."""
    choices = SpecChoices(name, precision, window, sinks, target=target)
    with explained():
        source = source_of(folder, adapter)
        with open_source(source, own_remote()) as checkpoint:
            suggestion = suggest_spec(checkpoint, source, choices)
            needed = read_needs(checkpoint, suggestion.spec)
            text = _written(suggestion, needed, output.parent if output else Path())
        if output is None:
            console.write(text)
            return
        if output.exists():
            raise Failure(f"{output} exists", hint="name another file, or remove it", code=WRONG)
        output.write_text(text, encoding="utf-8")
    console.err.print(f"wrote {escape(str(output))} [dim]· next: sinkserve build {escape(str(output))}[/]")


def _written(suggestion: Suggestion, needed: tuple[Architecture, Estimate], folder: Path) -> str:
    """The spec as YAML in a file of `folder`, with what a person would like to know beside each field."""
    spec, (shapes, needs) = suggestion.spec, needed
    cache = spec.cache
    size = console.size
    lines = (
        (f"name: {_scalar(spec.name)}", "what engines built from this are called"),
        _source_line(spec.source, folder),
        (f"target: {spec.target}", " | ".join(Target)),
        (f"precision: {spec.precision}", " | ".join(PRECISIONS[spec.target])),
        ("cache:", f"{size(needs.kv_bytes_per_slot)} of keys and values a slot"),
        (f"  sink_tokens: {cache.sink_tokens}", "kept from the start; a system prompt that fits is never forgotten"),
        (f"  window_tokens: {cache.window_tokens}", "the most recent ones, which are seen besides the sinks"),
        (f"  chunk_tokens: {cache.chunk_tokens}", "the most that one step feeds to one conversation"),
        (f"  max_slots: {cache.max_slots}", "conversations in the engine at once"),
        *_option_lines(spec),
    )
    head = (
        f"# {shapes.family}, {console.parameters(shapes.parameters)} parameters, {shapes.layers} layers, trained with "
        f"{shapes.trained_context} tokens of context,\n# which sinks and window have to fit. In memory: weights about "
        f"{size(needs.weight_bytes)}, slots {size(needs.kv_bytes_per_slot * cache.max_slots)}.\n"
        f"# Weights in {spec.precision}: {suggestion.precision_reason}.\n"
    )
    return head + "".join(f"{field:<{_COMMENT_COLUMN}} # {comment}\n" for field, comment in lines)


def _option_lines(spec: ModelSpec) -> tuple[tuple[str, str], ...]:
    """The options that only this target takes, each with its comment."""
    comments = _OPTIONS.get(spec.target)
    if comments is None:
        return ()
    values = spec.options.model_dump(mode="json")[spec.target.value]
    fields = ((f"    {name}: {_scalar(values[name])}", comment) for name, comment in comments.items())
    return (("options:", "these are the defaults"), (f"  {spec.target}:", "for this target only"), *fields)


def _scalar(value: object) -> str:
    """A value as YAML has it in one line."""
    return yaml.safe_dump(value, default_flow_style=True, width=10_000).partition("\n")[0]


def _source_line(source: Source, folder: Path) -> tuple[str, str]:
    local = isinstance(read_place(source), Folder)
    said = f"uri: {_scalar(_relative(source.uri, folder) if local else source.uri)}"
    if place := read_adapter_place(source):
        uri = _relative(source.adapter, folder) if isinstance(place, Folder) else source.adapter
        said += f", adapter: {_scalar(uri)}"
    return (f"source: {{{said}}}", "relative to this file" if local else "the builder fetches it")


def _relative(uri: str, folder: Path) -> str:
    """A path as seen from `folder` when that is short, with ./ so that it reads as one."""
    path = os.path.relpath(uri, folder.resolve())
    return uri if path.startswith("../..") else f"./{path}"


@app.command()
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A spec.")],
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Replace a field, such as cache.window_tokens=508."),
    ] = None,
) -> None:
    """Read a spec and its checkpoint as the builder would, short of the weights, and state what the engine needs."""
    with explained():
        spec = read_spec_file(file, read_changes(changes or ()))
        place = read_place(spec.source)
        if isinstance(place, Folder):
            spec = spec.model_copy(update={"source": spec.source.model_copy(update={"uri": str(place.path)})})
        with open_source(spec.source, own_remote()) as checkpoint:
            spec = settled(spec, checkpoint)
            shapes, needs = read_needs(checkpoint, spec)
            contents = read_contents(spec, checkpoint, datetime.now(UTC))
            if isinstance(place, Folder):
                read_tensors(spec, checkpoint, contents.model)
    console.print_facts(_facts(spec, shapes, needs))
    for warning in contents.warnings:
        console.err.print(f"[yellow]warning:[/] {escape(warning)}")
    unread = "" if isinstance(place, Folder) else " [dim]· its weights are read when it is built[/]"
    console.out.print(f"[green]the spec is good[/]{unread}")


def _facts(spec: ModelSpec, shapes: Architecture, needs: Estimate) -> tuple[tuple[str, str], ...]:
    cache = spec.cache
    return (
        ("engine", f"[bold]{escape(spec.name)}[/]"),
        ("source", escape(shown_source(spec.source))),
        ("model", f"{shapes.family}, {console.parameters(shapes.parameters)} parameters, {shapes.layers} layers"),
        ("trained context", f"{shapes.trained_context} tokens"),
        ("target", spec.target),
        ("precision", f"{spec.precision} [dim]weights about[/] {console.size(needs.weight_bytes)}"),
        ("keeps", f"{cache.sink_tokens} sinks + {cache.window_tokens} tokens of window"),
        ("memory per slot", f"{console.size(needs.kv_bytes_per_slot)} [dim]keys and values[/]"),
        ("memory in all", f"{console.size(needs.kv_bytes_per_slot * cache.max_slots)} [dim]{cache.max_slots} slots[/]"),
        ("build needs", f"{console.size(needs.memory_bytes)} memory, {console.size(needs.disk_bytes)} disk"),
    )
