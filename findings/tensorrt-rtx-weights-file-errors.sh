#!/usr/bin/env bash
# TensorRT-RTX 1.7.1.116: why a file of weights cannot be read stands in the log alone, not in the parser's errors.
#
# A graph whose external weights are cut short, or gone: parser.get_error gives the same sentence for both ("Failed to import
# initializer"). The logger is told "offset/length out of range" for the one and "Failed to open file" for the other. A service that
# shows what the parser says shows no cause: the logger's last lines have to be kept as well.
#
# Seen: equal descriptions from the parser, different lines in the log.
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

import tempfile
from pathlib import Path

import onnx

folder = Path(tempfile.mkdtemp())
weight = numpy_helper.from_array(np.ones((64, 64), np.float16), "w")
graph = model([helper.make_node("MatMul", ["x", "w"], ["y"])], [weight])
onnx.save_model(graph, str(folder / "m.onnx"), save_as_external_data=True, location="w.bin", size_threshold=0)

def read():
    log = Log()
    builder, network, reader = parser(log)  # both have to outlive the parser
    return reader.parse_from_file(str(folder / "m.onnx")), [reader.get_error(i).desc() for i in range(reader.num_errors)], log.errors

assert read()[0]
(folder / "w.bin").write_bytes((folder / "w.bin").read_bytes()[:100])
_, short, short_log = read()
(folder / "w.bin").unlink()
_, gone, gone_log = read()
print("parser:", short, "\nlog, cut short:", short_log[0], "\nlog, gone:", gone_log[0])
assert short == gone and "Failed to import initializer" in short[0]
assert "out of range" in short_log[0] and "Failed to open file" in gone_log[0]
CODE
echo "as described"
