#!/usr/bin/env bash
# TensorRT-RTX 1.7.1.116 without a GPU: two builds of one graph give plans that differ in some bytes.
#
# The same process, the same graph, the same configuration: plans of one size that are not equal, so a digest of a plan does
# not say what it was made from, and a build is not reproducible bit by bit. Here a graph with two optimization profiles for
# two compute capabilities is built four times. Smaller graphs with one profile gave equal plans.
#
# Seen: 4,930,876 bytes each, two of which differ in 2,418 to 4,923.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check tensorrt-rtx-cu13-bindings==1.7.1.116 tensorrt-rtx-cu13-libs==1.7.1.116 onnx==1.23.0 numpy==2.4.6
"$work/env/bin/python" - <<'CODE'
import time
import numpy as np
import tensorrt_rtx_bindings as trt
from onnx import TensorProto, helper, numpy_helper

HEADS, DIM, ROWS = 4, 64, 96
WIDTH = HEADS * DIM

class Log(trt.ILogger):
    def __init__(self):
        trt.ILogger.__init__(self)

    def log(self, severity, message):
        pass

def model(layers):
    """Layers of attention over caches that are written in place, in float16."""
    generator = np.random.default_rng(0)
    nodes, constants, ports, outputs = [], [], [], []

    def value(name, *shape, kind=TensorProto.FLOAT16):
        return helper.make_tensor_value_info(name, kind, shape)

    def add(operator, *inputs, out="", **attributes):
        name = out or f"value{len(nodes)}"
        nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        return name

    def constant(array, name):
        constants.append(numpy_helper.from_array(array, name))
        return name

    split, join = constant(np.array([0, -1, HEADS, DIM]), "split"), constant(np.array([0, -1, WIDTH]), "join")
    x = "x"
    for layer in range(layers):
        weights = [constant((generator.standard_normal((WIDTH, WIDTH)) / 16).astype(np.float16), f"w{layer}{part}") for part in "qkvo"]
        q, k, v = (add("Transpose", add("Reshape", add("MatMul", x, each), split), perm=[0, 2, 1, 3]) for each in weights[:3])
        ports += [value(f"{kind}{layer}", "n", HEADS, ROWS, DIM) for kind in "kv"]
        outputs += [value(f"{kind}{layer}o", "n", HEADS, ROWS, DIM) for kind in "kv"]
        keys = add("TensorScatter", f"k{layer}", k, "at", out=f"k{layer}o", axis=-2)
        values = add("TensorScatter", f"v{layer}", v, "at", out=f"v{layer}o", axis=-2)
        scores = add("Softmax", add("MatMul", q, add("Transpose", keys, perm=[0, 1, 3, 2])), axis=-1)
        mixed = add("Reshape", add("Transpose", add("MatMul", scores, values), perm=[0, 2, 1, 3]), join)
        x = add("Add", x, add("MatMul", mixed, weights[3]))
    add("Identity", x, out="y")
    ports += [value("x", "n", "t", WIDTH), value("at", "n", kind=TensorProto.INT64)]
    graph = helper.make_graph(nodes, "g", ports, [*outputs, value("y", "n", "t", WIDTH)], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=12)

def build(graph, capabilities, profiles, monitor=None):
    """The plan."""
    log = Log()
    builder = trt.Builder(log)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    assert parser.parse(graph.SerializeToString())
    config = builder.create_builder_config()
    for extents in profiles:
        profile = builder.create_optimization_profile()
        for port in graph.graph.input:
            dims = [dim.dim_value or dim.dim_param for dim in port.type.tensor_type.shape.dim]
            profile.set_shape(port.name, *(tuple({"n": n, "t": t}.get(dim, dim) for dim in dims) for n, t in extents))
        config.add_optimization_profile(profile)
    config.num_compute_capabilities = len(capabilities)
    for index, capability in enumerate(capabilities):
        config.set_compute_capability(capability, index)
    if monitor is not None:
        config.progress_monitor = monitor
    plan = builder.build_serialized_network(network, config)
    assert plan is not None
    return bytes(memoryview(plan))

DECODE, PREFILL = ((1, 1), (4, 1), (4, 1)), ((1, 1), (1, 16), (4, 16))

graph = model(4)
plans = [build(graph, (trt.ComputeCapability.SM86, trt.ComputeCapability.SM120), (DECODE, PREFILL)) for _ in range(4)]
print("bytes:", *map(len, plans))
print("other than the first:", *(sum(x != y for x, y in zip(plans[0], plan)) for plan in plans[1:]))
assert len(set(plans)) > 1
CODE
echo "as described"
