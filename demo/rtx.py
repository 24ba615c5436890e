"""The demo's second engine: the same model for RTX GPUs, where NVIDIA's compiler is installed; no GPU is needed."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from common.engine.tensorrt.library import rtx_version
from common.errors import FailedPrecondition
from common.rpc.wire import spec_to_wire
from common.spec.model_spec import ModelSpec
from common.spec.yaml_file import read_spec_file
from sinkserve.cli.build.view import print_outcome, watch
from sinkserve.cli.engine_card import facts
from sinkserve.cli.terminal.console import print_facts
from sinkserve.client import Client

HERE = Path(__file__).resolve().parent
SHOWN = ("hardware", "compiled", "files", "verified on", "verified")
"""What is printed of the engine: all that a compiler made of it."""


def rtx_spec() -> ModelSpec:
    """The demo's spec, for every GPU that runs bf16 by default."""
    changes = {"name": "demo-rtx", "target": "tensorrt_rtx", "precision": "bf16"}
    return read_spec_file(HERE / "spec.yaml", changes)


async def build_rtx(client: Client, console: Console) -> None:
    """Build it and print what is in it; without the compiler, print in one line how to get it."""
    try:
        version = rtx_version()
    except FailedPrecondition:
        console.print("[dim]pip install 'sinkserve[tensorrt-rtx]' to build it for RTX GPUs too; no GPU is needed[/]")
        return
    console.print(f"\n[bold]Building[/] it as demo-rtx too, with TensorRT-RTX {version} and without a GPU")
    submitted = await client.builds.submit(spec_to_wire(rtx_spec()))
    done = await watch(client, submitted.name)
    print_outcome(done, next_command=False)
    engine = await client.engines.get(done.engine)
    print_facts([(name, value) for name, value in facts(engine) if name in SHOWN])
