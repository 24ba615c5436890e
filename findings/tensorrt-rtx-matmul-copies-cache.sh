#!/usr/bin/env bash
# TensorRT-RTX 1.7.1.116 without a GPU: a product that reads a cache which `TensorScatter` has just updated first copies the
# whole cache, at every step. Fused attention reads it where it lies.
#
# The kernels of a plan can be listed without a GPU: with detailed profiling verbosity the compiler logs them, with the values
# that they read and write. Behind the kernel that writes a token's row in place, `MatMul(weights, values)` gets a kernel of its
# own whose only work is to write all rows anew. `Attention` over the same caches has no such kernel.
#
# Seen (for 8.6, float16, caches of 4 x 1,024 x 64): MatMul: one copy of 262,144 numbers. Attention: none, and a kernel
# named _gemv_mha_v1 that reads both caches.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check tensorrt-rtx-cu13-bindings==1.7.1.116 tensorrt-rtx-cu13-libs==1.7.1.116 onnx==1.23.0
"$work/env/bin/python" - <<'CODE'
import math
import re

import tensorrt_rtx_bindings as trt
from onnx import TensorProto, helper

HEADS, ROWS, DIM = 4, 1024, 64
CACHE = [1, HEADS, ROWS, DIM]

class Log(trt.ILogger):
    def __init__(self):
        trt.ILogger.__init__(self)
        self.lines = []

    def log(self, severity, message):
        self.lines.append(message)

def model(node, more):
    def value(name, shape, kind=TensorProto.FLOAT16):
        return helper.make_tensor_value_info(name, kind, shape)

    names = ("keys", "values")
    inputs = [*(value(name, CACHE) for name in names), *(value(f"new_{name}", [1, HEADS, 1, DIM]) for name in names)]
    writes = [helper.make_node("TensorScatter", [name, f"new_{name}", "row"], [f"{name}_out"], axis=-2) for name in names]
    graph = helper.make_graph([*writes, node], "g", [*inputs, value("row", [1], TensorProto.INT64), value(*more)],
                              [value("y", [1, HEADS, 1, DIM]), *(value(f"{name}_out", CACHE) for name in names)])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=12).SerializeToString()

def kernels(data):
    """Of each kernel its name, what it reads, and how many numbers each value has that it writes."""
    log = Log()
    builder = trt.Builder(log)
    network = builder.create_network(0)
    assert trt.OnnxParser(network, log).parse(data), log.lines
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    assert builder.build_serialized_network(network, config), log.lines
    (text,) = [line for line in log.lines if "LayerType" in line]
    form = r"Name: (\S+), LayerType: \w+, Inputs: \[(.*?)\], Constants: .*?Outputs: \[(.*?)\], TacticName"
    values = r"Name: (\S+), Dimensions: \[([\d,]+)\]"
    return [(name, [read for read, _ in re.findall(values, inputs)],
             {made: math.prod(map(int, shape.split(","))) for made, shape in re.findall(values, outputs)})
            for name, inputs, outputs in re.findall(form, text)]

def copies(found):
    """Kernels that read one cache alone and write as many numbers as it has."""
    return [name for name, read, made in found if read in (["keys_out"], ["values_out"]) and math.prod(CACHE) in made.values()]

product = kernels(model(helper.make_node("MatMul", ["weights", "values_out"], ["y"]), ("weights", [1, HEADS, 1, ROWS])))
fused = kernels(model(helper.make_node("Attention", ["q", "keys_out", "values_out"], ["y"]), ("q", [1, HEADS, 1, DIM])))
for what, found in (("MatMul", product), ("Attention", fused)):
    print(what, "kernels", [name for name, _, _ in found], "copies", copies(found))
assert len(copies(product)) == 1
assert not copies(fused)
assert any("_mha_" in name and {"keys_out", "values_out"} <= set(read) for name, read, _ in fused), fused
CODE
echo "as described"
