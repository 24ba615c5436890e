"""Ways in which models write calls of tools: data, one entry a way. Which one a chat template has shows its rendering.

Sources: the chat templates of Llama 3.1 to 3.3, of Qwen2.5, Qwen3, Hermes 2 Pro, Hermes 3 and Granite 4, and of Mistral
Nemo.
"""

from __future__ import annotations

from collections.abc import Mapping

from common.spec.chat.tool_template import CallForm, Marker

HERMES = CallForm(
    opens=Marker(text="<tool_call>"),
    before="\n",
    separator="\n",
    after="\n",
    closes=Marker(text="</tool_call>"),
)
"""Every call has its own markers. Also what models get whose template knows no tools."""
LLAMA = CallForm(opens=None, closes=None, arguments_key="parameters", several=False)
"""The reply is the call alone."""
_MISTRAL = CallForm(
    opens=Marker(text="[TOOL_CALLS]"), before="[", separator=", ", after="]", closes=None, each=False, id_key="id"
)
FORMATS: Mapping[str, CallForm] = {
    "hermes": HERMES,
    "mistral": _MISTRAL,
    "mistral, with a space": _MISTRAL.model_copy(update={"before": " ["}),
    "llama": LLAMA,
}
"""The ones with markers first: the object alone is in all of them."""

PLACES: tuple[dict[str, object], ...] = ({"tools_in_user_message": False}, {})
"""Variables to render with, in the order in which they are tried: Llama 3 then declares tools in the system prompt."""

PREAMBLE = (
    "You can call these functions:\n<tools>\n",
    '\n</tools>\nTo call one, say only\n<tool_call>\n{"name": NAME, "arguments": {...}}\n</tool_call>',
)
"""Around the tools in the system prompt of a model whose template knows none."""
RESPONSE = ("<tool_response>\n", "\n</tool_response>")
"""Around a result, in a message of the user; likewise."""
