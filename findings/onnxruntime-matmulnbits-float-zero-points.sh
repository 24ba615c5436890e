#!/usr/bin/env bash
# onnxruntime 1.32.0, CPU: MatMulNBits takes zero points as floats too, and is then slower by a factor of tens.
#
# The same weights, scales and accuracy_level 4, zero point 8 for every block of 32: given as packed uint8 one row times
# 2048 x 2048 takes tens of microseconds, given as float32 several milliseconds. Nothing is logged: another kernel takes over.
#
# Seen: a ratio of 170 on two x86 cores with VNNI; the script fails below 5.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check onnxruntime==1.32.0 onnx==1.23.0 numpy==2.4.6
"$work/env/bin/python" - <<'CODE'
import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

def session(nodes, x, y, constants):
    """One input x and one output y, each a shape, on the CPU."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(nodes, "g", [value("x", TensorProto.FLOAT, x)], [value("y", TensorProto.FLOAT, y)],
                              [numpy_helper.from_array(array, name) for name, array in constants.items()])
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=11)
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])

import time

K = N = 2048
rng = np.random.default_rng(0)
packed = rng.integers(0, 255, (N, K // 32, 16), dtype=np.uint8)
scales = np.ones(N * K // 32, np.float32)

def seconds(zero_points):
    node = helper.make_node("MatMulNBits", ["x", "b", "s", "z"], ["y"], domain="com.microsoft", K=K, N=N, bits=4,
                            block_size=32, accuracy_level=4)
    made = session([node], [1, K], [1, N], {"b": packed, "s": scales, "z": zero_points})
    times = []
    for _ in range(20):
        start = time.process_time()
        made.run(None, {"x": np.ones((1, K), np.float32)})
        times.append(time.process_time() - start)
    return min(times)

integers = seconds(np.full(N * K // 64, 0x88, np.uint8))
floats = seconds(np.full(N * K // 32, 8.0, np.float32))
print(f"uint8 zero points {integers * 1e6:.0f} us, float32 zero points {floats * 1e6:.0f} us: {floats / integers:.0f} times")
assert floats > 5 * integers
CODE
echo "as described"
