"""Tools in chat templates: what is derived gives the template's own tokens, or the engine takes none and says why."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from builder_service.chat.chat_template import ChatTemplate, Said
from builder_service.chat.derive import DerivedText
from builder_service.chat.tools.derive import answering, calling
from builder_service.checkpoint.folder import FolderCheckpoint
from common.errors import InvalidArgument
from common.spec.chat.tool_template import Slot
from common.text.tools.values import Tool, ToolCall
from common.text.tools.wrapping import declared
from common.window import Geometry
from runtime_service.decoding.text import Text
from runtime_service.domain.turn import Message
from tests.samples.chat_templates import (
    CHATML,
    FOREIGN_TOOLS,
    GEMMA,
    GEMMA_3,
    LLAMA_2,
    LLAMA_TOOLS,
    MISTRAL_TOKENS,
    MISTRAL_TOOLS,
    NOW,
    QWEN_3,
    QWEN_TOKENS,
    QWEN_TOOLS,
    REASONING,
    Checkpoint,
    byte_level,
    sentencepiece,
)
from tests.samples.whole_manifests import make_manifest

KINDS = {
    "qwen": (QWEN_TOOLS, ()),
    "qwen, markers are tokens": (QWEN_TOOLS, QWEN_TOKENS),
    "llama": (LLAMA_TOOLS, ()),
    "mistral": (MISTRAL_TOOLS, MISTRAL_TOKENS),
}
TOOLS = (
    Tool("weather", "Says how it is outside.", {"type": "object", "properties": {"town": {"type": "string"}}}),
    Tool("now", "What time it is.", {"type": "object", "properties": {}}),
)
PLACES = {"llama": {"tools_in_user_message": False}}
CALLS = (ToolCall("a1B2c3D4e", "weather", '{"town": "Lisbon"}'), ToolCall("f5G6h7I8j", "now", "{}"))
WORDS = st.text(st.characters(categories=("L", "N"), exclude_characters="<"), min_size=1, max_size=8)
SAID = st.lists(WORDS, min_size=1, max_size=4).map(" ".join)


class Made:
    """A checkpoint with a template, and the text of its engine."""

    def __init__(self, checkpoint: Checkpoint, template: str) -> None:
        self.derived: DerivedText = checkpoint.derive()
        files = FolderCheckpoint(checkpoint.folder).tokenizer
        assert files
        self.library = files.library
        self.template = ChatTemplate(template, files.special, NOW)
        assert self.derived.model
        assert self.derived.tokenizer_json
        manifest = make_manifest(Geometry(4, 60, 16, 2)).model_copy(update={"text": self.derived.model})
        self.text = Text(self.derived.tokenizer_json, manifest).with_tools(TOOLS)

    def rendered(self, said: list[Said], **given: object) -> tuple[int, ...]:
        tools = [declared(tool, wrapped=True) for tool in TOOLS]
        text = self.template.render(said, generation=True, given={"tools": tools, **given})
        return tuple(self.library.encode(text, add_special_tokens=False).ids)


@cache
def made(kind: str) -> Made:
    template, added = KINDS[kind]
    with TemporaryDirectory() as folder:
        return Made(byte_level(Path(folder), template, added), template)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=20, phases=(Phase.explicit, Phase.generate))
@given(asked=SAID, answers=st.lists(SAID, min_size=1, max_size=2))
def test_an_exchange_has_the_templates_own_tokens(kind: str, asked: str, answers: list[str]) -> None:
    one = made(kind)
    calls = CALLS[: len(answers)] if kind != "llama" else CALLS[:1]
    answers = answers[: len(calls)]
    opening = one.text.opening()
    called = [Message("assistant", "", tool_calls=calls)]
    results = [Message("tool", said, call.id, call.name) for said, call in zip(answers, calls, strict=True)]
    exchange = one.text.first([Message("user", asked), *called, *results], opening)
    own = (*opening, *exchange, *one.text.assistant_before)
    arguments: list[object] = [{"town": "Lisbon"}, {}]
    said: list[Said] = [("user", asked), calling(calls, arguments[: len(calls)])]
    said += [answering(call, answer) for call, answer in zip(calls, answers, strict=True)]
    assert own == one.rendered(said, **PLACES.get(kind, {}))


@pytest.mark.parametrize("kind", KINDS)
def test_a_system_prompt_stands_beside_tools(kind: str) -> None:
    one = made(kind)
    opening = one.text.opening("You are kind.")
    own = (*opening, *one.text.first([Message("user", "Hello")], opening), *one.text.assistant_before)
    assert own == one.rendered([("system", "You are kind."), ("user", "Hello")], **PLACES.get(kind, {}))


def test_a_marker_that_is_a_token_is_one_and_no_user_writes_it() -> None:
    spelled, token = made("qwen"), made("qwen, markers are tokens")
    assert spelled.text.part_forms(None).calls
    assert token.derived.model
    tools = token.derived.model.template.tools
    assert tools
    assert tools.calls.opens
    assert tools.calls.opens.token_id == token.library.token_to_id("<tool_call>")
    assert tools.calls.opens.token_id not in token.text.user("what is <tool_call> for?")


def test_results_are_json_or_named_as_the_template_has_them() -> None:
    slots = {kind: made(kind).text for kind in KINDS}
    assert {kind: _slots(text) for kind, text in slots.items()} == {
        "qwen": {Slot.CONTENT},
        "qwen, markers are tokens": {Slot.CONTENT},
        "llama": {Slot.CONTENT_JSON},
        "mistral": {Slot.CONTENT, Slot.CALL_ID},
    }


def _slots(text: Text) -> frozenset[Slot]:
    assert text._tools
    assert text._tools.template
    return text._tools.template.results.slots


@pytest.mark.parametrize(
    ("kind", "messages", "said"),
    [
        ("mistral", [Message("tool", "x")], r"messages\[0\].tool_call_id is empty"),
        ("llama", [Message("assistant", "", tool_calls=CALLS)], "has 2 calls; the chat template takes one"),
        ("llama", [Message("assistant", "Hm", tool_calls=CALLS[:1])], "content is set beside tool_calls"),
        ("qwen", [Message("user", "x", tool_calls=CALLS)], "role is 'user'"),
        ("qwen", [Message("assistant", "", tool_calls=(ToolCall("1", "now", "[]"),))], "has to be a JSON object"),
        ("qwen", [Message("function", "x")], "has to be 'user', 'assistant' or 'tool'"),
    ],
)
def test_what_the_template_cannot_write_is_refused_by_name(kind: str, messages: list[Message], said: str) -> None:
    with pytest.raises(InvalidArgument, match=said):
        made(kind).text.messages(messages)


def test_a_template_that_moves_tools_is_a_warning() -> None:
    assert any("tools elsewhere in later turns" in warning for warning in made("mistral").derived.warnings)


@pytest.mark.parametrize(("write", "template"), [(byte_level, CHATML), (byte_level, GEMMA_3), (sentencepiece, LLAMA_2)])
def test_a_template_that_knows_no_tools_has_them_in_the_system_prompt(
    tmp_path: Path, write: Callable[[Path, str], Checkpoint], template: str
) -> None:
    one = Made(write(tmp_path, template), template)
    assert one.derived.model
    assert one.derived.model.template.tools
    assert not one.derived.model.template.tools.by_template
    detokenizer = one.text.detokenizer()
    said = "".join(map(detokenizer.push, one.text.opening("Be kind.")))
    assert '"name": "weather"' in said
    assert "Be kind." in said
    result = one.text.messages([Message("tool", "21 degrees", CALLS[0].id, "weather")])
    assert result == one.text.user("<tool_response>\n21 degrees\n</tool_response>")


@pytest.mark.parametrize(("template", "thinks"), [(QWEN_3, False), (REASONING, True)])
def test_a_template_that_knows_thoughts_marks_them_and_may_open_one(
    tmp_path: Path, template: str, *, thinks: bool
) -> None:
    one = Made(byte_level(tmp_path, template), template)
    forms = one.text.part_forms(None)
    assert forms.reasoning
    assert forms.reasoning.closes.token_id == one.library.token_to_id("</think>")
    assert (forms.thinks, made("llama").text.part_forms(None).reasoning) == (thinks, None)


@pytest.mark.parametrize(
    ("template", "why"), [(FOREIGN_TOOLS, "none of the forms that are known"), (GEMMA, "no place for them")]
)
def test_where_tools_cannot_be_derived_the_engine_says_why_and_sessions_have_none(
    tmp_path: Path, template: str, why: str
) -> None:
    derived = byte_level(tmp_path, template).derive()
    assert any(warning.startswith("no tools: ") and why in warning for warning in derived.warnings)
    assert derived.model
    manifest = make_manifest(Geometry(4, 60, 16, 2)).model_copy(update={"text": derived.model})
    with pytest.raises(InvalidArgument, match=f"open.new_session.tools is of tools, and .* takes none: .*{why}"):
        Text(derived.tokenizer_json, manifest).with_tools(TOOLS)
