"""What a runtime makes of messages is what the chat template makes of them, or is refused by name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from builder_service.chat.derive import DerivedText
from common.errors import InvalidArgument
from common.spec.manifest import TurnForm
from common.window import Geometry
from runtime_service.decoding.text import Text
from runtime_service.domain.turn import Message
from tests.samples import vocabularies
from tests.samples.chat_templates import (
    ALPACA,
    ALWAYS_APPENDS,
    CHATML,
    GEMMA_3,
    LLAMA_2,
    LLAMA_3,
    MISTRAL_3,
    REASONING,
    SMOL,
    ZEPHYR,
    ZEPHYR_TEXT,
    as_transformers,
    byte_level,
    ids,
    sentencepiece,
)
from tests.samples.whole_manifests import make_manifest

TEXTS = ("Hello there!", "It is four (4).", "Grüße, 世界 🙂.", "No", "What is 2 + 2?")
ROLES = {"u": "user", "a": "assistant", "s": "system"}
EVERY = ("u", "uu", "uau", "uauu", "uuau", "au", "auau", "uaau", "ua", "uaua")
KINDS = {
    "chatml": (byte_level, CHATML),
    "llama 3": (byte_level, LLAMA_3),
    "llama 2": (sentencepiece, LLAMA_2),
    "zephyr": (sentencepiece, ZEPHYR),
    "zephyr as text": (sentencepiece, ZEPHYR_TEXT),
    "gemma 3": (byte_level, GEMMA_3),
    "mistral 3": (byte_level, MISTRAL_3),
    "smol": (byte_level, SMOL),
    "appends": (byte_level, ALWAYS_APPENDS),
    "reasoning": (byte_level, REASONING),
    "alpaca": (byte_level, ALPACA),
}


def runtime(derived: DerivedText) -> Text:
    assert derived.model, derived.warnings
    manifest = make_manifest(Geometry(0, 8, 4, 1), template=derived.model.template)
    return Text(derived.tokenizer_json, manifest)


def spoken(text: Text, said: Sequence[dict[str, str]]) -> list[int]:
    """A conversation as a session takes it in, up to the reply. Raises InvalidArgument."""
    system, rest = (said[0]["content"], said[1:]) if said[0]["role"] == "system" else ("", said)
    opening = text.opening(system)
    messages = [Message(message["role"], message["content"]) for message in rest]
    prompt = text.messages(messages)
    if text.begins_otherwise(opening):
        prompt = text.first(messages, opening)
    return [*opening, *prompt, *text.assistant_before]


def said_in(roles: str) -> list[dict[str, str]]:
    return [{"role": ROLES[role], "content": TEXTS[at % len(TEXTS)]} for at, role in enumerate(roles)]


@pytest.mark.parametrize("kind", KINDS)
def test_messages_are_the_templates_own_tokens_or_refused(tmp_path: Path, kind: str) -> None:
    write, template = KINDS[kind]
    checkpoint = write(tmp_path, template)
    text, right = runtime(checkpoint.derive()), 0
    for roles in (*EVERY, *(f"s{roles}" for roles in EVERY)):
        if kind == "mistral 3" and roles.startswith("s") and len(roles) > 2:
            continue  # it moves the system prompt, of which there is a warning
        with suppress(InvalidArgument):
            tokens = spoken(text, said_in(roles))
            assert tokens == as_transformers(checkpoint, said_in(roles)), roles
            right += 1
    assert right >= 4


@pytest.mark.parametrize("kind", ["chatml", "llama 3", "appends", "zephyr"])
def test_templates_that_only_append_have_every_form(tmp_path: Path, kind: str) -> None:
    write, template = KINDS[kind]
    refused = write(tmp_path, template).parts().unproven
    assert set(refused) <= ({TurnForm.REPLY_TO_ASSISTANT} if kind == "appends" else set())


def test_a_template_that_always_appends_the_header_has_it_before_the_reply_alone(tmp_path: Path) -> None:
    checkpoint = byte_level(tmp_path, ALWAYS_APPENDS)
    parts = checkpoint.parts()
    assert parts.user_before == ids(checkpoint, "<|im_start|>user\n")
    assert parts.user_after == ids(checkpoint, "<|im_end|>\n")
    assert parts.assistant_before == ids(checkpoint, "<|im_start|>assistant\n")


def test_markup_that_has_another_token_at_the_beginning_is_not_cut(tmp_path: Path) -> None:
    checkpoint = sentencepiece(tmp_path, ZEPHYR_TEXT)
    parts = checkpoint.parts()
    assert parts.first_user_before != parts.user_before
    library = checkpoint.library()
    assert library.decode(list(parts.user_before), skip_special_tokens=False).strip() == "<|user|>"
    assert TurnForm.USER_TWICE not in parts.unproven


def test_a_reply_that_is_given_as_a_message_gets_no_open_reasoning(tmp_path: Path) -> None:
    checkpoint = byte_level(tmp_path, REASONING)
    think = ids(checkpoint, "<think>")[0]
    text = runtime(checkpoint.derive())
    assert think not in text.messages([Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "Bye")])
    assert think in text.assistant_before


def test_what_a_user_says_is_encoded_with_the_text_behind_it_where_the_two_merge(tmp_path: Path) -> None:
    checkpoint = byte_level(tmp_path, ALPACA)
    parts = checkpoint.parts()
    assert (parts.user_suffix, parts.user_after) == ("\n\n", ())
    merged = ids(checkpoint, "Hello there!\n\n")
    assert merged[: len(ids(checkpoint, "Hello there!"))] != ids(checkpoint, "Hello there!")
    assert runtime(checkpoint.derive()).messages([Message("user", "Hello there!")]) == (*parts.user_before, *merged)


@pytest.mark.parametrize("kind", ["llama 2", "gemma 3", "mistral 3", "smol", "alpaca"])
def test_a_system_prompt_is_carried_as_the_template_does(tmp_path: Path, kind: str) -> None:
    write, template = KINDS[kind]
    checkpoint = write(tmp_path, template)
    text = runtime(checkpoint.derive())
    for content in TEXTS:
        said = [{"role": "system", "content": content}, {"role": "user", "content": "Hello"}]
        assert spoken(text, said) == as_transformers(checkpoint, said)


def test_a_template_that_moves_the_system_prompt_is_a_warning(tmp_path: Path) -> None:
    warnings = byte_level(tmp_path, MISTRAL_3).derive().warnings
    assert any("moves or rewrites the system prompt" in warning for warning in warnings), warnings


def test_no_reply_is_refused_where_the_template_never_leaves_a_message_without_one(tmp_path: Path) -> None:
    derived = byte_level(tmp_path, GEMMA_3).derive()
    text = runtime(derived)
    with pytest.raises(InvalidArgument, match="two messages of the user in a row") as caught:
        text.user("Hello", no_reply=True)
    assert caught.value.violations[0].field == "turn.no_reply"
    assert text.messages([Message("user", "Hello"), Message("assistant", "Hi")], no_reply=True)
    assert any("user twice" in warning for warning in derived.warnings), derived.warnings


def test_a_reply_loses_the_space_that_its_tokenizer_puts_before_a_text(tmp_path: Path) -> None:
    """Whether or not contents are encoded without it."""
    checkpoint = sentencepiece(tmp_path, ZEPHYR)
    derived = checkpoint.derive()
    assert derived.tokenizer_json
    assert json.loads(derived.tokenizer_json)["normalizer"] != json.loads(vocabularies.sentencepiece())["normalizer"]
    detokenizer = runtime(derived).detokenizer()
    said = "".join(detokenizer.push(token) for token in ids(checkpoint, "Hello there"))
    assert said == "Hello there"


def test_variables_of_the_spec_reach_the_template(tmp_path: Path) -> None:
    template = "{% if effort %}{{ '<|im_start|>system\n' + effort + '<|im_end|>\n' }}{% endif %}" + CHATML
    checkpoint = byte_level(tmp_path, template)
    derived = checkpoint.derive(variables={"effort": "low"})
    assert derived.model
    assert derived.model.template.opening == ids(checkpoint, "<|im_start|>system\nlow<|im_end|>\n")
    assert checkpoint.parts().opening == ()
