"""How a chat template marks what a model thinks before it replies."""

from __future__ import annotations

from builder_service.chat.tools.derive import marker
from builder_service.chat.turn_segments import TemplateTokenizer
from common.spec.chat.tool_template import Reasoning

MARKERS = (("<think>", "</think>"), ("[THINK]", "[/THINK]"))
"""Of Qwen3, DeepSeek R1, SmolLM3 and others; of Magistral."""


def reasoning_of(tokenizer: TemplateTokenizer) -> Reasoning | None:
    """The markers that the template knows; None: it knows none."""
    source, added = tokenizer.template.source, tokenizer.added
    known = ((opens, closes) for opens, closes in MARKERS if closes in source or opens in source)
    return next((Reasoning(opens=marker(opens, added), closes=marker(closes, added)) for opens, closes in known), None)
