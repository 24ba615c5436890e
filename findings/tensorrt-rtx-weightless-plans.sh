#!/usr/bin/env bash
# TensorRT-RTX 1.7.1.116 without a GPU: plans without weights, and plans that can be refitted, cannot be built.
#
# Compiling ahead of time needs no GPU, and so does this graph. With BuilderFlag.STRIP_PLAN or REFIT the same build asks the
# CUDA driver for something and fails with "CHECK(status == CUDA_SUCCESS) failed"; with VERSION_COMPATIBLE it looks for
# libnvinfer_lean.so.1, which no wheel of TensorRT-RTX holds. So an engine that is built where no GPU is carries its weights.
# (Run where there is a CUDA driver, the first two may succeed.)
#
# Seen: a plan without flags; none with each of the three.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check tensorrt-rtx-cu13-bindings==1.7.1.116 tensorrt-rtx-cu13-libs==1.7.1.116 onnx==1.23.0 numpy==2.4.6
"$work/env/bin/python" - <<'CODE'
import numpy as np
import tensorrt_rtx_bindings as trt
from onnx import TensorProto, helper, numpy_helper

class Log(trt.ILogger):
    def __init__(self):
        trt.ILogger.__init__(self)
        self.errors = []

    def log(self, severity, message):
        if severity <= trt.ILogger.ERROR:
            self.errors.append(message)

def model(nodes, constants):
    value = helper.make_tensor_value_info
    graph = helper.make_graph(nodes, "g", [value("x", TensorProto.FLOAT16, [8, 64])],
                              [value("y", TensorProto.FLOAT16, [8, 64])], constants)
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=11)

def parser(log):
    builder = trt.Builder(log)
    network = builder.create_network(0)
    return builder, network, trt.OnnxParser(network, log)

def build(graph, capabilities, *flags):
    """The plan, or None, and the errors that were logged."""
    log = Log()
    builder, network, reader = parser(log)
    assert reader.parse(graph.SerializeToString()), log.errors
    config = builder.create_builder_config()
    config.num_compute_capabilities = len(capabilities)
    for index, capability in enumerate(capabilities):
        config.set_compute_capability(capability, index)
    for flag in flags:
        config.set_flag(flag)
    return builder.build_serialized_network(network, config), log.errors

weight = numpy_helper.from_array(np.ones((64, 64), np.float16), "w")
graph = model([helper.make_node("MatMul", ["x", "w"], ["y"])], [weight])
target = [trt.ComputeCapability.SM86]
assert build(graph, target)[0] is not None
for flag, why in (("STRIP_PLAN", "CUDA_SUCCESS"), ("REFIT", "CUDA_SUCCESS"), ("VERSION_COMPATIBLE", "libnvinfer_lean")):
    plan, errors = build(graph, target, getattr(trt.BuilderFlag, flag))
    print(flag, "a plan" if plan else "no plan", errors)
    assert plan is None and any(why in line for line in errors)
CODE
echo "as described"
