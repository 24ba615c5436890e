#!/usr/bin/env bash
# TensorRT-RTX 1.7.1.116 without a GPU: a graph builds for its default targets although some of them cannot run it.
#
# A product with fp8 weights needs compute capability 8.9. Asked for 8.6 alone, the builder refuses and says why. With no
# compute capability named it builds for a set of its own choice and says nothing: no error, though 8.6 is a GPU that
# TensorRT-RTX supports. Whoever builds for others has to name every compute capability.
#
# Seen: no capability: a plan, no error. 8.6: no plan, "HW-specific datatypes: fp8_e4m3". 8.9: a plan.
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

import ml_dtypes

weight = np.random.default_rng(0).standard_normal((64, 64)).astype(ml_dtypes.float8_e4m3fn)
constants = [helper.make_tensor("w", TensorProto.FLOAT8E4M3FN, weight.shape, weight.tobytes(), raw=True),
             numpy_helper.from_array(np.float16(1.0), "s")]
graph = model([helper.make_node("DequantizeLinear", ["w", "s"], ["d"]), helper.make_node("MatMul", ["x", "d"], ["y"])], constants)
silent, errors = build(graph, [])
print("no compute capability named:", "a plan" if silent else "no plan", errors)
assert silent is not None and not errors
refused, errors = build(graph, [trt.ComputeCapability.SM86])
print("8.6:", "a plan" if refused else "no plan", errors)
assert refused is None and any("fp8_e4m3" in line for line in errors)
assert build(graph, [trt.ComputeCapability.SM89])[0] is not None
CODE
echo "as described"
