#!/usr/bin/env bash
# TensorRT-RTX 1.7.1.116: OnnxParser.supports_operator says yes to an operator that the parser then refuses.
#
# MatMulNBits of com.microsoft: supports_operator is true, because the parser knows the name; parsing asks for a plugin that the
# library does not have. supports_model_v2 tells the truth for a whole graph. Ask that one.
#
# Seen: supports_operator True, supports_model_v2 False, parse False: "failed to load MatMulNBits plugin".
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

rng = np.random.default_rng(0)
constants = [numpy_helper.from_array(rng.integers(0, 255, (64, 2, 16), np.uint8), "b"),
             numpy_helper.from_array(np.ones(128, np.float16), "s")]
node = helper.make_node("MatMulNBits", ["x", "b", "s"], ["y"], domain="com.microsoft", K=64, N=64, bits=4, block_size=32)
data = model([node], constants).SerializeToString()
log = Log()  # it, builder and network have to outlive the parser
builder, network, reader = parser(log)
named, whole = reader.supports_operator("MatMulNBits"), reader.supports_model_v2(data)
other_builder, other_network, reader = parser(log)
parsed = reader.parse(data)
words = [reader.get_error(index).desc() for index in range(reader.num_errors)]
print("supports_operator", named, "supports_model_v2", whole, "parse", parsed, words)
assert named and not whole and not parsed and "MatMulNBits plugin" in words[0]
CODE
echo "as described"
