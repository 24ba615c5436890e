"""A graph on one of ONNX Runtime's providers, fed plain arrays and no engine around it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import helper

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_OPTIONS: Mapping[str, Mapping[str, str]] = {CPU: {}, CUDA: {"use_tf32": "0"}}  # TF32 has 10 bits of mantissa

Arrays = dict[str, npt.NDArray[Any]]


class NoKernelError(Exception):
    """The provider, and the CPU behind it, cannot compute a node in its type."""


class ProviderSession:
    """Numbers go in and out in the types that the graph declares, bfloat16 too. Writes a profile beside `profile`."""

    def __init__(self, graph: Path, provider: str, profile: Path) -> None:
        declared = onnx.load(graph, load_external_data=False).graph
        self._inputs = {port.name: _type(port) for port in declared.input}
        self._outputs = {port.name: _type(port) for port in declared.output}
        self._session = _session(graph, provider, profile)
        assert self._session.get_providers()[0] == provider, f"onnxruntime lists {provider} and cannot use it"

    @property
    def caches(self) -> dict[str, np.dtype[Any]]:
        """Caches, and the type of their numbers."""
        return {name: dtype for name, dtype in self._inputs.items() if "_cache_" in name}

    def run(self, inputs: Arrays, vocabulary: int) -> Arrays:
        """The graph's outputs: logits [batch, vocabulary], and every cache, updated, by the name that it has as one."""
        given = {name: np.ascontiguousarray(inputs[name], dtype) for name, dtype in self._inputs.items()}
        batch = len(given["token_ids"])
        shapes = {name: given[name.removesuffix("_out")].shape for name in self._outputs if name != "logits"}
        shapes["logits"] = (batch, vocabulary)
        got = {name: np.zeros(shapes[name], dtype) for name, dtype in self._outputs.items()}
        binding = self._session.io_binding()
        for bind, arrays in ((binding.bind_input, given), (binding.bind_output, got)):
            for name, array in arrays.items():
                kind = helper.np_dtype_to_tensor_dtype(array.dtype)
                bind(name, "cpu", 0, kind, array.shape, array.ctypes.data)
        self._session.run_with_iobinding(binding)
        return {name.removesuffix("_out"): array for name, array in got.items()}

    def operators_on(self, provider: str) -> set[str]:
        """Operators that ran there, copies apart. Ends the profile: no run may follow."""
        events = json.loads(Path(self._session.end_profiling()).read_text(encoding="utf-8"))
        nodes = [event["args"] for event in events if event.get("cat") == "Node" and "args" in event]
        return {
            node["op_name"] for node in nodes if node.get("provider") == provider and "Memcpy" not in node["op_name"]
        }


def _session(graph: Path, provider: str, profile: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # nodes run as they are written
    options.enable_profiling = True
    options.profile_file_prefix = str(profile)
    options.log_severity_level = 3  # errors; warnings speak of nodes on the CPU, which is looked at here
    providers = [(name, dict(_OPTIONS[name])) for name in dict.fromkeys((provider, CPU))]
    try:
        return ort.InferenceSession(graph, options, providers=providers)
    except Exception as error:  # onnxruntime has a dozen classes for this, with no common one
        if "NOT_IMPLEMENTED" in str(error):
            raise NoKernelError(str(error)) from error
        raise


def _type(port: onnx.ValueInfoProto) -> np.dtype[Any]:
    dtype: np.dtype[Any] = helper.tensor_dtype_to_np_dtype(port.type.tensor_type.elem_type)
    return dtype
