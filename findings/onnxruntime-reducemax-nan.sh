#!/usr/bin/env bash
# onnxruntime 1.32.0, CPU: ReduceMax passes over a NaN, unless it is the first element of what is reduced.
#
# Max of two tensors, and numpy, hand a NaN on wherever it stands. So a maximum over a row does not show that the row holds
# a NaN: a scale computed from it looks finite.
#
# Seen: NaN at index 3 gives 1.0; NaN at index 0 gives nan; Max gives nan.
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

reduce = session([helper.make_node("ReduceMax", ["x", "axes"], ["y"], keepdims=1)], [1, 64], [1, 1],
                 {"axes": np.array([1], np.int64)})
larger = session([helper.make_node("Max", ["x", "zero"], ["y"])], [1, 64], [1, 64], {"zero": np.zeros((1, 64), np.float32)})

def row(at):
    x = np.ones((1, 64), np.float32)
    x[0, at] = np.nan
    return {"x": x}

inside, first = (float(reduce.run(None, row(at))[0][0, 0]) for at in (3, 0))
print("ReduceMax: NaN at 3 gives", inside, "and NaN at 0 gives", first, "- numpy gives", row(3)["x"].max())
assert inside == 1.0 and np.isnan(first) and np.isnan(larger.run(None, row(3))[0][0, 3])
CODE
echo "as described"
