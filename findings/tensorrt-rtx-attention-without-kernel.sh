#!/usr/bin/env bash
# TensorRT-RTX 1.7.1.116 without a GPU: `Attention` is taken by the parser in shapes for which there is no kernel, and ONNX
# has no word that lets the compiler use several kernels instead.
#
# The parser says yes to the whole graph (`supports_model_v2`) and marks the layer as not decomposable, so the build fails where
# no fused kernel fits: with heads of 12 numbers, or with 32,768 rows of keys. Whoever sets `decomposable` on the parsed
# network gets a plan. In Python the layer comes as an `ILayer` without `attention`; its class has to be changed first.
#
# Seen (float16, grouped heads, for 8.6): 64 numbers and 1,024 rows: a plan. 12 and 1,024, 64 and 32,768: "Attention operation
# was not supported by a dedicated kernel". The same, decomposable: a plan.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check tensorrt-rtx-cu13-bindings==1.7.1.116 tensorrt-rtx-cu13-libs==1.7.1.116 onnx==1.23.0
"$work/env/bin/python" - <<'CODE'
import tensorrt_rtx_bindings as trt
from onnx import TensorProto, helper

class Log(trt.ILogger):
    def __init__(self):
        trt.ILogger.__init__(self)
        self.errors = []

    def log(self, severity, message):
        if severity <= trt.ILogger.ERROR:
            self.errors.append(message)

def attention(dim, rows):
    def value(name, heads, tokens):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT16, [1, heads, tokens, dim])

    graph = helper.make_graph([helper.make_node("Attention", ["q", "k", "v"], ["y"])], "g",
                              [value("q", 4, 1), value("k", 2, rows), value("v", 2, rows)], [value("y", 4, 1)])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11).SerializeToString()

def parser(log):
    builder = trt.Builder(log)
    network = builder.create_network(0)
    return builder, network, trt.OnnxParser(network, log)

def build(dim, rows, decomposable):
    """The plan, or None, and the errors that were logged."""
    log, data = Log(), attention(dim, rows)
    asked = parser(log)
    assert asked[2].supports_model_v2(data, ""), log.errors
    builder, network, reader = parser(log)
    assert reader.parse(data), log.errors
    if decomposable:
        layers = [network.get_layer(index) for index in range(network.num_layers)]
        (layer,) = [layer for layer in layers if layer.type == trt.LayerType.ATTENTION_INPUT]
        assert not hasattr(layer, "attention")
        layer.__class__ = trt.IAttentionInputLayer
        assert not layer.attention.decomposable
        layer.attention.decomposable = True
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    return builder.build_serialized_network(network, config), log.errors

for dim, rows in ((64, 1024), (12, 1024), (64, 32768)):
    plan, errors = build(dim, rows, decomposable=False)
    print(f"heads of {dim}, {rows} rows:", "a plan" if plan else "no plan", errors)
    assert (plan is not None) == ((dim, rows) == (64, 1024))
    assert plan or any("was not supported by a dedicated kernel" in error for error in errors), errors
    assert build(dim, rows, decomposable=True)[0], "decomposable"
CODE
echo "as described"
