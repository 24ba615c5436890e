"""A checkpoint as GGUF in 16 bits, with a vocabulary that only counts: what llama.cpp and OpenVINO GenAI read."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]


def write_gguf(checkpoint: Path, path: Path) -> None:
    """Convert the Llama or Qwen2 in the folder `checkpoint`; the file appears whole."""
    config = json.loads((checkpoint / "config.json").read_text())
    partial = path.with_suffix(".partial")
    writer = gguf.GGUFWriter(partial, config["model_type"])
    _add_shape(writer, config)
    _add_vocabulary(writer, config["vocab_size"])
    arch = {"llama": gguf.MODEL_ARCH.LLAMA, "qwen2": gguf.MODEL_ARCH.QWEN2}[config["model_type"]]
    names = gguf.get_tensor_name_map(arch, config["num_hidden_layers"])
    for name, tensor in _tensors(checkpoint / "model.safetensors"):
        writer.add_tensor(names.get_name(name, (".weight", ".bias")), _as_llama_cpp(name, tensor, config))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.rename(path)


def _add_shape(writer: Any, config: dict[str, Any]) -> None:  # noqa: ANN401 - gguf is not installed beside us
    head = config["hidden_size"] // config["num_attention_heads"]
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)


def _add_vocabulary(writer: Any, size: int) -> None:  # noqa: ANN401 - as above
    """256 bytes, then words that no text has; peers get token ids, never text."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(others))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([*letters, *(f"<w{index}>" for index in range(size - 256))])
    writer.add_token_types([gguf.TokenType.NORMAL] * size)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)


def _tensors(path: Path) -> Iterator[tuple[str, FloatArray]]:
    with path.open("rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        start = file.tell()
        for name, entry in header.items():
            if name != "__metadata__":
                file.seek(start + entry["data_offsets"][0])
                raw = file.read(entry["data_offsets"][1] - entry["data_offsets"][0])
                yield name, _as_float(raw, entry["dtype"]).reshape(entry["shape"])


def _as_float(raw: bytes, dtype: str) -> FloatArray:
    if dtype == "BF16":
        return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(raw, {"F32": "<f4", "F16": "<f2"}[dtype]).astype(np.float32)


def _as_llama_cpp(name: str, tensor: FloatArray, config: dict[str, Any]) -> npt.NDArray[Any]:
    """Vectors in float32, matrices in float16; rows of Llama's queries and keys as its pairwise rotation wants them."""
    if tensor.ndim == 1:
        return tensor
    heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}.get(name.split(".")[-2])
    if heads and config["model_type"] == "llama":
        rows, columns = tensor.shape
        halves = tensor.reshape(config[heads], 2, rows // config[heads] // 2, columns)
        tensor = np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows, columns)
    return tensor.astype(np.float16)
