"""A template whose variables have choices is proven once for each combination, with one tokenizer."""

from pathlib import Path

import pytest

from builder_service.chat.chat_template import ChatTemplate
from builder_service.checkpoint.folder import FolderCheckpoint
from common.errors import InvalidArgument
from common.spec.chat.template_choices import NotAChoice, Value, Variables, choose, combinations
from common.window import Geometry
from runtime_service.decoding.text import Text
from runtime_service.domain.turn import Message
from tests.samples.chat_templates import CHATML, NOW, byte_level, ids
from tests.samples.whole_manifests import make_manifest

THINKER = CHATML.replace(
    "{{ '<|im_start|>assistant\n' }}",
    "{{ '<|im_start|>assistant\n' }}{% if not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}",
)
BROKEN = "{% if effort == 'low' %}{{ raise_exception('no such effort') }}{% endif %}" + THINKER
CHOICES: Variables = {"enable_thinking": (True, False), "tone": "dry"}


def test_each_choice_has_its_parts_and_a_session_gets_those_of_its_own(tmp_path: Path) -> None:
    checkpoint = byte_level(tmp_path, THINKER)
    derived = checkpoint.derive(variables=CHOICES)
    assert derived.model is not None
    header, silence = ids(checkpoint, "<|im_start|>assistant\n"), ids(checkpoint, "<think>\n\n</think>\n\n")
    assert derived.model.template.assistant_before == header
    (variant,) = derived.model.variants
    assert variant.variables == {"enable_thinking": False}
    assert variant.template.assistant_before == (*header, *silence)
    manifest = make_manifest(Geometry(0, 8, 4, 1), vocabulary=10_000, template=derived.model.template)
    spec = manifest.spec.model_copy(update={"template_variables": CHOICES})
    text = Text(derived.tokenizer_json, manifest.model_copy(update={"text": derived.model, "spec": spec}))
    files = FolderCheckpoint(checkpoint.folder).tokenizer
    assert files
    for value in (True, False):
        template = ChatTemplate(THINKER, {**files.special, "enable_thinking": value}, NOW)
        rendered = files.library.encode(template.render([("user", "Hello")], generation=True), add_special_tokens=False)
        own = text.choosing(text.settle({"enable_thinking": value}))
        assert [*own.opening(), *own.messages([Message("user", "Hello")]), *own.assistant_before] == rendered.ids
    assert text.choosing(text.settle({})) is text
    with pytest.raises(InvalidArgument, match="enable_thinking is 'low'; the engine's spec declares true or false"):
        text.settle({"enable_thinking": "low"})


def test_a_choice_that_cannot_be_proven_is_a_warning_and_refused(tmp_path: Path) -> None:
    derived = byte_level(tmp_path, BROKEN).derive(variables={"effort": ("high", "low")})
    assert derived.model is not None
    assert derived.model.variants == ()
    (warning,) = [text for text in derived.warnings if "effort low" in text]
    assert warning.startswith("sessions cannot choose effort low: ")
    assert "no such effort" in warning
    manifest = make_manifest(Geometry(0, 8, 4, 1), vocabulary=10_000, template=derived.model.template)
    spec = manifest.spec.model_copy(update={"template_variables": {"effort": ("high", "low")}})
    text = Text(derived.tokenizer_json, manifest.model_copy(update={"spec": spec}))
    assert text.settle({}) == {"effort": "high"}
    with pytest.raises(InvalidArgument, match="has no turns with effort low; its warnings say why"):
        text.settle({"effort": "low"})


def test_without_the_defaults_there_is_no_text(tmp_path: Path) -> None:
    derived = byte_level(tmp_path, BROKEN).derive(variables={"effort": ("low", "high")})
    assert derived.model is None
    assert any("no such effort" in text for text in derived.warnings)


def test_combinations_begin_with_the_defaults_and_choices_tell_true_from_one() -> None:
    variables: Variables = {"a": (1, 2), "b": "x", "c": (True, False)}
    assert [tuple(found.values()) for found in combinations(variables)] == [
        (1, "x", True),
        (1, "x", False),
        (2, "x", True),
        (2, "x", False),
    ]
    assert choose(variables, {"a": 2.0, "b": "x"}) == {"a": 2, "c": True}
    wrong: list[dict[str, Value]] = [{"a": True}, {"c": 1}, {"b": "y"}, {"d": 1}]
    for asked in wrong:
        with pytest.raises(NotAChoice):
            choose(variables, asked)
