"""Who takes part: the peers, in which precision, and which environment they need."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Member:
    """A row of the tables."""

    name: str
    module: str
    variant: str
    environment: str
    """A folder below the one of all environments; empty: ours."""
    before: bool = False
    """Runs from the tree of another revision, with that tree's own bench."""


MEMBERS = {
    member.name: member
    for member in (
        Member("ours int8", "ours", "int8", ""),
        Member("ours int8, keys and values too", "ours", "int8-kv8", ""),
        Member("ours int4", "ours", "int4", ""),
        Member("ours int4, blocks of 128", "ours", "int4-128", ""),
        Member("ours int4, blocks of 128, keys and values int8", "ours", "int4-128-kv8", ""),
        Member("before: int8", "ours", "int8", "", before=True),
        Member("before: int4, blocks of 128", "ours", "int4-128", "", before=True),
        Member("llama.cpp Q4_0", "llama", "q4_0", "llama"),
        Member("llama.cpp Q8_0", "llama", "q8_0", "llama"),
        Member("llama.cpp Q4_0, built with AMX", "llama", "q4_0", "llama-amx"),
        Member("llama.cpp Q8_0, built with AMX", "llama", "q8_0", "llama-amx"),
        Member("OpenVINO GenAI int8", "openvino", "int8", "openvino"),
        Member("OpenVINO GenAI int4", "openvino", "int4", "openvino"),
        Member("PyTorch StreamingLLM bf16", "streaming", "bf16", "torch"),
        Member("PyTorch StreamingLLM fp32", "streaming", "fp32", "torch"),
        Member("PyTorch recomputation bf16", "recompute", "bf16", "torch"),
        Member("PyTorch recomputation fp32", "recompute", "fp32", "torch"),
    )
}
REFERENCES = tuple(member.name for member in MEMBERS.values() if member.module == "ours" and not member.before)
"""Whom the others are compared with; an engine is one of them."""
