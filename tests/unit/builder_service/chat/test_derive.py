import re
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from builder_service.chat.chat_template import ChatTemplate
from builder_service.chat.derive import DerivedText
from builder_service.checkpoint.folder import FolderCheckpoint
from common.errors import InvalidArgument, Reason
from common.spec.manifest import TurnTemplate
from tests.samples.chat_templates import (
    CHATML,
    GEMMA,
    LLAMA_2,
    LLAMA_3,
    NOW,
    QWEN_2,
    QWEN_3,
    ZEPHYR,
    as_transformers,
    byte_level,
    conversation,
    ids,
    sentencepiece,
    wrapped,
)

KINDS = {
    "chatml": (byte_level, CHATML),
    "qwen_2": (byte_level, QWEN_2),
    "llama_3": (byte_level, LLAMA_3),
    "llama_2": (sentencepiece, LLAMA_2),
    "zephyr": (sentencepiece, ZEPHYR),
}
LETTERS = st.characters(categories=("L", "N", "P", "S"), exclude_characters="<")  # with it, a control token is written
WORDS = st.lists(st.text(LETTERS, min_size=1, max_size=8), min_size=1)


@cache
def derived_from(kind: str) -> tuple[DerivedText, ChatTemplate, Tokenizer]:
    write, template = KINDS[kind]
    with TemporaryDirectory() as folder:
        checkpoint = write(Path(folder), template)
        files = FolderCheckpoint(checkpoint.folder).tokenizer
        assert files
        return checkpoint.derive(), ChatTemplate(template, files.special, NOW), files.library


@pytest.mark.parametrize("kind", KINDS)
@given(st.lists(WORDS.map(" ".join), min_size=1, max_size=3).filter(lambda contents: len(contents) % 2))
def test_whatever_is_said_comes_out_as_the_template_has_it(kind: str, contents: list[str]) -> None:
    derived, template, library = derived_from(kind)
    said = conversation(*contents)
    text = template.render([(message["role"], message["content"]) for message in said], generation=True)
    assert wrapped(derived, said) == library.encode(text, add_special_tokens=False).ids


CONVERSATION = conversation("Hello there!", "Grüße, 世界 🙂.", "What is\n\ntwo plus 2?", "It is four (4).", "No")
WITH_SYSTEM = conversation("Hello there!", "Hi.", "My cat is called Miso", system="You are kind.")


@pytest.mark.parametrize("template", [CHATML, QWEN_2, LLAMA_3, GEMMA])
def test_parts_and_contents_are_what_transformers_makes_of_a_conversation(tmp_path: Path, template: str) -> None:
    checkpoint = byte_level(tmp_path, template)
    derived = checkpoint.derive()
    assert wrapped(derived, CONVERSATION) == as_transformers(checkpoint, CONVERSATION)


@pytest.mark.parametrize("template", [CHATML, QWEN_2, LLAMA_3])
def test_so_it_is_with_a_system_prompt(tmp_path: Path, template: str) -> None:
    checkpoint = byte_level(tmp_path, template)
    assert wrapped(checkpoint.derive(), WITH_SYSTEM) == as_transformers(checkpoint, WITH_SYSTEM)


@pytest.mark.parametrize("template", [LLAMA_2, ZEPHYR])
def test_so_it_is_with_sentencepieces_spaces(tmp_path: Path, template: str) -> None:
    checkpoint = sentencepiece(tmp_path, template)
    assert wrapped(checkpoint.derive(), CONVERSATION) == as_transformers(checkpoint, CONVERSATION)


def test_the_parts_of_chatml(tmp_path: Path) -> None:
    checkpoint = byte_level(tmp_path, CHATML)
    assert checkpoint.parts().model_copy(update={"tools": None}) == TurnTemplate(
        opening=(),
        system_before=ids(checkpoint, "<|im_start|>system\n"),
        system_after=ids(checkpoint, "<|im_end|>\n"),
        user_before=ids(checkpoint, "<|im_start|>user\n"),
        user_after=ids(checkpoint, "<|im_end|>\n"),
        assistant_before=ids(checkpoint, "<|im_start|>assistant\n"),
        assistant_after=ids(checkpoint, "<|im_end|>\n"),
    )


def test_a_default_system_prompt_is_part_of_the_opening(tmp_path: Path) -> None:
    checkpoint = byte_level(tmp_path, QWEN_2)
    assert checkpoint.parts().opening == ids(checkpoint, "<|im_start|>system\nYou are helpful.<|im_end|>\n")
    assert checkpoint.parts().system_before == ids(checkpoint, "<|im_start|>system\n")


def test_a_begin_token_is_part_of_the_opening(tmp_path: Path) -> None:
    checkpoint = byte_level(tmp_path, LLAMA_3)
    assert checkpoint.parts().opening == ids(checkpoint, "<|begin|>")


def test_a_begin_token_of_every_turn_is_part_of_the_turn(tmp_path: Path) -> None:
    checkpoint = sentencepiece(tmp_path, LLAMA_2)
    parts = checkpoint.parts()
    assert parts.system_before is not None
    assert parts.system_before[: len(parts.user_before)] == parts.user_before
    assert (parts.opening, parts.user_before) == ((), ids(checkpoint, "<s>[INST]"))
    assert (parts.assistant_before, parts.assistant_after[-1]) == ((), 2)


def test_stripping_is_seen(tmp_path: Path) -> None:
    checkpoint = byte_level(tmp_path, LLAMA_3)
    assert checkpoint.parts().strip_content
    assert not checkpoint.derive().warnings
    said = conversation("  Hello \n", "\n\nHi ", "  two plus 2  ")
    assert wrapped(checkpoint.derive(), said) == as_transformers(checkpoint, said)


def test_contents_that_merge_with_the_template_are_a_warning(tmp_path: Path) -> None:
    derived = byte_level(tmp_path, CHATML).derive()
    assert not derived.model or not derived.model.template.strip_content
    assert len(derived.warnings) == 1
    assert r"'\nleading line'" in derived.warnings[0]


def test_a_template_that_refuses_a_system_prompt_has_none(tmp_path: Path) -> None:
    derived = byte_level(tmp_path, GEMMA).derive()
    assert derived.model
    assert derived.model.template.system_before is None
    assert any("System role not supported" in warning for warning in derived.warnings)


def test_a_system_prompt_inside_the_users_words_is_put_there(tmp_path: Path) -> None:
    template = CHATML.replace("{% for message in messages %}", INSIDE)
    checkpoint = byte_level(tmp_path, template)
    derived = checkpoint.derive()
    assert derived.model
    assert derived.model.template.system_user_before == ()
    assert wrapped(derived, WITH_SYSTEM) == as_transformers(checkpoint, WITH_SYSTEM)
    assert wrapped(derived, CONVERSATION) == as_transformers(checkpoint, CONVERSATION)


INSIDE = (
    "{% set first = messages[0]['role'] == 'system' %}{% for message in (messages[1:] if first else messages) %}"
    "{% if first and loop.first %}{{ '<|im_start|>user\n' + messages[0]['content'] + '<|eot|>' + message['content'] }}"
    "{{ '<|im_end|>\n' }}{% continue %}{% endif %}"
)


def test_a_template_that_rewrites_earlier_turns_is_a_warning(tmp_path: Path) -> None:
    checkpoint = byte_level(tmp_path, QWEN_3)
    derived = checkpoint.derive()
    assert derived.model
    assert any("rewrites earlier replies" in warning for warning in derived.warnings)
    assert derived.model.template.assistant_before == ids(checkpoint, "<|im_start|>assistant\n")
    assert wrapped(derived, CONVERSATION) == as_transformers(checkpoint, CONVERSATION)


def test_a_generation_prompt_that_history_does_not_have_is_used_with_a_warning(tmp_path: Path) -> None:
    template = CHATML.replace("<|im_start|>assistant\n", "<|im_start|>assistant\n<think>\n")
    checkpoint = byte_level(tmp_path, template)
    derived = checkpoint.derive()
    assert derived.model
    assert derived.model.template.assistant_before == ids(checkpoint, "<|im_start|>assistant\n<think>\n")
    assert any("begins earlier replies otherwise" in warning for warning in derived.warnings)


def test_a_template_that_refuses_reasoning_is_no_failure(tmp_path: Path) -> None:
    refusal = "{% if '<think>' in message['content'] %}{{ raise_exception('no thinking') }}{% endif %}"
    template = CHATML.replace("{{ '<|im_start|>' + message", refusal + "{{ '<|im_start|>' + message")
    assert byte_level(tmp_path, template).derive().model


def test_added_tokens_of_the_template_are_proven_as_a_runtime_encodes_them(tmp_path: Path) -> None:
    """The generation prompt's `<think>` is not special, yet nobody else can write it."""
    template = CHATML.replace("<|im_start|>assistant\n", "<|im_start|>assistant\n<think>\n")
    derived = byte_level(tmp_path, template).derive()
    said = conversation("what is <think> for?")
    think = ids(byte_level(tmp_path, template), "<think>")[0]
    assert wrapped(derived, said).count(think) == 1


def test_the_time_stands_still_with_a_warning(tmp_path: Path) -> None:
    template = "{{ '<|im_start|>system\nToday: ' + strftime_now('%d %B %Y') + '<|im_end|>\n' }}" + CHATML
    checkpoint = byte_level(tmp_path, template)
    assert checkpoint.parts().opening == ids(checkpoint, "<|im_start|>system\nToday: 17 May 2031<|im_end|>\n")
    assert any("2031-05-17" in warning for warning in checkpoint.derive().warnings)


def test_a_last_reply_that_is_not_closed_does_not_hide_how_others_are(tmp_path: Path) -> None:
    template = (
        "{{ bos_token }}{% for message in messages %}{{ '<|start|>' + message['role'] + '<|stop|>' }}"
        "{{ message['content'] }}{% if message['role'] == 'user' or not loop.last %}{{ '<|eot|>' }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant<|stop|>' }}{% endif %}"
    )
    checkpoint = byte_level(tmp_path, template)
    parts = checkpoint.parts()
    assert parts.opening == ids(checkpoint, "<|begin|>")
    assert parts.assistant_after == ids(checkpoint, "<|eot|>")
    assert wrapped(checkpoint.derive(), CONVERSATION) == as_transformers(checkpoint, CONVERSATION)


def sends_back(what: str) -> str:
    return "{% for message in messages %}{{ " + what + " }}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (sends_back("message['content'] | upper"), "0 times"),
        (sends_back("message['content'] + message['content']"), "2 times"),
        (
            sends_back("loop.index ~ '<|eot|>' + message['content'] + '<|eot|>'"),
            "alike",
        ),
        (CHATML.replace("message['content'] + '", "message['content'] + ('' if loop.last else '!') + '"), "alike|ends"),
        ("{{ raise_exception('I do not talk') }}", "I do not talk"),
        ("{{ messages[0].content + none }}", "refuses"),
        (sends_back("'x' + message['content'] + 'y'"), "other tokens"),
        ("{% for message in", "compile"),
    ],
)
def test_what_cannot_be_split_takes_token_ids_only_and_says_why(tmp_path: Path, template: str, reason: str) -> None:
    derived = byte_level(tmp_path, template).derive()
    assert derived.model is None
    assert len(derived.warnings) == 1
    assert "token ids only" in derived.warnings[0]
    assert re.search(reason, derived.warnings[0]), derived.warnings
    assert derived.tokenizer_json is not None


def test_punctuation_that_merges_with_the_template_is_refused(tmp_path: Path) -> None:
    """`there!` before a line break is another token than `!`; behind a reply, whose tokens the model chose, there is no
    way to join the two.
    """
    template = sends_back(r"'<|start|>' + message['content'] + '\n\n'")
    assert byte_level(tmp_path, template).derive().model is None


def test_a_template_of_the_spec_goes_first(tmp_path: Path) -> None:
    checkpoint = byte_level(tmp_path, LLAMA_3)
    assert checkpoint.parts(CHATML).user_before == ids(checkpoint, "<|im_start|>user\n")


def test_a_template_of_the_spec_that_does_not_compile_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="nor a Jinja template") as caught:
        byte_level(tmp_path, CHATML).derive("{% for")
    assert caught.value.reason == Reason.INVALID_SPEC
    assert caught.value.violations[0].field == "spec.chat_template"


def test_end_tokens_are_the_tokenizers_and_the_templates(tmp_path: Path) -> None:
    checkpoint = byte_level(tmp_path, LLAMA_3, eos_token="<|endoftext|>")
    assert checkpoint.derive().end_token_ids == ids(checkpoint, "<|eot|><|endoftext|>")


def test_turns_marked_by_ordinary_text_are_a_warning(tmp_path: Path) -> None:
    template = sends_back(r"'\t' + message['role'] + '\t' + message['content'] + '\t\t'")
    warnings = sentencepiece(tmp_path, template).derive().warnings
    assert any("a user can write as well" in warning for warning in warnings), warnings
