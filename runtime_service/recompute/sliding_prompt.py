"""What of a session is sent to an engine that keeps no cache. Pure.

This is the "sliding window with recomputation" of StreamingLLM (arXiv 2309.17453, section 3.1 and figure 1c), with the
sinks in front. Prompt and reply together never exceed sinks + window, so positions are those in the cache, as in the
paper. A reply that reaches that goes on from a new prompt, which leaves room for a stride: with a window of w' and a
stride of s tokens, a token sees at least w' - s and less than w' recent ones, and s tokens of a long reply cost w' - s
recomputed ones.
"""

from __future__ import annotations

from common.window import SessionWindow
from runtime_service.decoding.token_history import TokenHistory


def sliding_prompt(history: TokenHistory, stride_tokens: int, left: int) -> tuple[tuple[int, ...], int]:
    """What is sent for the next tokens of a reply that may have `left` more, and how many of them there is room for.

    Sinks and the newest tokens, as many as leave room for a stride, or for `left` if that is less. The newest token is
    always sent and there is always room for one: a window of a single token is exceeded by one.
    """
    window = history.window
    tokens = history.view(max(1, window.window - min(stride(window, stride_tokens), left)))
    return tokens, max(1, min(left, window.capacity - len(tokens)))


def stride(window: SessionWindow, stride_tokens: int) -> int:
    """By how many tokens a window slides: as asked for, or by a quarter (0), but never as a whole."""
    return max(1, min(stride_tokens or window.window // 4, window.window - 1))
