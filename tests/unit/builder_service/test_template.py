import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from builder_service.template import DerivedText, derive_text
from common.content import ContentEncoder, control_tokens, template_tokens
from common.errors import InvalidArgument, Reason
from common.manifest import TurnTemplate
from common.vocabulary import Vocabulary
from tests import vocabularies

NOW = datetime(2031, 5, 17, 12, 0, tzinfo=UTC)
VOCABULARY = 10_000

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
QWEN_2 = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}{% endif %}"
) + CHATML
QWEN_3 = """
{%- set ns = namespace(last=-1) %}
{%- for message in messages %}{% if message.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}
{%- for message in messages %}
    {%- set content = message.content %}
    {%- if message.role == 'assistant' and '</think>' in content %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.role == 'assistant' and loop.index0 > ns.last %}{{- '<think>\\n\\n</think>\\n\\n' }}{% endif %}
    {{- content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}
"""
LLAMA_3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start|>' + message['role'] + '<|stop|>\n\n' + message['content'] | trim + '<|eot|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant<|stop|>\n\n' }}{% endif %}"
)
LLAMA_2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}"
    "{% else %}{% set loop_messages = messages %}{% set system = '' %}{% endif %}"
    "{% for message in loop_messages %}"
    "{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + (system if loop.first else '') + message['content'].strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
ZEPHYR = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + eos_token + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate') }}{% endif %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<|im_start|>' + role + '\n' + message['content'] | trim + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>model\n' }}{% endif %}"
)
CONTROL = ("<|begin|>", "<|im_start|>", "<|im_end|>", "<|start|>", "<|stop|>", "<|eot|>", "<|endoftext|>")


class Checkpoint:
    """A folder with tokenizer files, and what transformers makes of a conversation with it."""

    def __init__(self, folder: Path, tokenizer: bytes, **config: Any) -> None:
        self.folder = folder
        (folder / "tokenizer.json").write_bytes(tokenizer)
        fields = {"tokenizer_class": "PreTrainedTokenizerFast", **config}
        (folder / "tokenizer_config.json").write_text(json.dumps(fields))

    def derive(self, chat_template: str = "", vocabulary: int = VOCABULARY) -> DerivedText:
        return derive_text(self.folder, chat_template, vocabulary, NOW)

    def parts(self, chat_template: str = "") -> TurnTemplate:
        derived = self.derive(chat_template)
        assert derived.model is not None, derived.warnings
        return derived.model.template


def byte_level(folder: Path, template: str | None, **config: Any) -> Checkpoint:
    named = {"bos_token": "<|begin|>", "eos_token": "<|im_end|>", "chat_template": template}
    kept = {key: value for key, value in {**named, **config}.items() if value is not None}
    return Checkpoint(folder, vocabularies.byte_level(CONTROL), **kept)


def sentencepiece(folder: Path, template: str | None, **config: Any) -> Checkpoint:
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "chat_template": template}
    kept = {key: value for key, value in {**named, **config}.items() if value is not None}
    return Checkpoint(folder, vocabularies.sentencepiece(), **kept)


def wrapped(derived: DerivedText, said: Sequence[Mapping[str, str]]) -> list[int]:
    """A conversation up to where a reply begins, put together as a runtime does it."""
    assert derived.model
    assert derived.tokenizer_json
    parts, tokenizer = derived.model.template, json.loads(derived.tokenizer_json)
    encoder = ContentEncoder(tokenizer, control_tokens(tokenizer, template_tokens(parts)))
    around = {
        "system": (parts.system_before or (), parts.system_after),
        "user": (parts.user_before, parts.user_after),
        "assistant": (parts.assistant_before, parts.assistant_after),
    }
    tokens = list(() if said[0]["role"] == "system" else parts.opening)
    for message in said:
        before, after = around[message["role"]]
        content = message["content"].strip() if parts.strip_content else message["content"]
        tokens += (*before, *encoder.encode(content), *after)
    return [*tokens, *parts.assistant_before]


def as_transformers(checkpoint: Checkpoint, said: list[dict[str, str]]) -> list[int]:
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(checkpoint.folder)
    found = tokenizer.apply_chat_template(said, add_generation_prompt=True, tokenize=True, return_dict=False)
    return list(found)


def conversation(*contents: str, system: str = "") -> list[dict[str, str]]:
    said = [{"role": ("user", "assistant")[at % 2], "content": content} for at, content in enumerate(contents)]
    return [{"role": "system", "content": system}, *said] if system else said


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


def ids(checkpoint: Checkpoint, text: str) -> tuple[int, ...]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(checkpoint.folder / "tokenizer.json"))
    return tuple(tokenizer.encode(text, add_special_tokens=False).ids)


def test_the_parts_of_chatml(tmp_path: Path) -> None:
    checkpoint = byte_level(tmp_path, CHATML)
    assert checkpoint.parts() == TurnTemplate(
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
    assert parts.system_before is None
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


def test_a_system_prompt_inside_the_users_words_is_none(tmp_path: Path) -> None:
    template = CHATML.replace("{% for message in messages %}", INSIDE)
    checkpoint = byte_level(tmp_path, template)
    derived = checkpoint.derive()
    assert derived.model
    assert derived.model.template.system_before is None
    assert any("inside what the user says" in warning for warning in derived.warnings)
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
    """`there!` before a line break is another token than `!`: every second message would come out otherwise."""
    template = sends_back(r"'<|start|>' + message['content'] + '\n\n'")
    assert byte_level(tmp_path, template).derive().model is None


def test_a_template_of_the_spec_goes_first(tmp_path: Path) -> None:
    checkpoint = byte_level(tmp_path, LLAMA_3)
    assert checkpoint.parts(CHATML).user_before == ids(checkpoint, "<|im_start|>user\n")


def test_a_template_of_the_spec_that_does_not_compile_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="not a Jinja template") as caught:
        byte_level(tmp_path, CHATML).derive("{% for")
    assert caught.value.reason == Reason.INVALID_SPEC
    assert caught.value.violations[0].field == "spec.chat_template"


def test_none_feeds_text_as_it_is(tmp_path: Path) -> None:
    derived = byte_level(tmp_path, CHATML).derive("none")
    assert derived.model
    assert derived.model.template == TurnTemplate(
        opening=(), system_before=(), user_before=(), user_after=(), assistant_before=(), assistant_after=()
    )
    assert derived.warnings == ()


def test_raw_text_gets_no_space_that_nobody_wrote(tmp_path: Path) -> None:
    checkpoint = sentencepiece(tmp_path, None)
    derived = checkpoint.derive("none")
    assert wrapped(derived, conversation(" Hello")) == list(ids(checkpoint, "Hello"))
    assert derived.tokenizer_json
    shipped = Vocabulary(json.loads(derived.tokenizer_json))
    assert b"".join(map(shipped.token_bytes, wrapped(derived, conversation("Hello")))) == b"Hello"
    assert shipped.leading_spaces == 0


@pytest.mark.parametrize(("adds", "opening"), [(True, (1,)), (False, ()), (None, ())])
def test_raw_text_begins_as_the_tokenizer_begins_it(
    tmp_path: Path, adds: bool | None, opening: tuple[int, ...]
) -> None:
    parts = sentencepiece(tmp_path, None, add_bos_token=adds).parts("none")
    assert (parts.opening, parts.system_before) == (opening, opening)


def test_raw_text_begins_as_the_post_processor_begins_it(tmp_path: Path) -> None:
    data = json.loads(vocabularies.sentencepiece())
    begin, end = ({"SpecialToken": {"id": name, "type_id": 0}} for name in ("<s>", "</s>"))
    named = {name: {"id": name, "ids": [at], "tokens": [name]} for at, name in ((1, "<s>"), (2, "</s>"))}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    data["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [begin, text, end],
        "pair": [text, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": named,
    }
    assert Checkpoint(tmp_path, json.dumps(data).encode()).parts("none").opening == (1,)


def test_no_chat_template_is_raw_text_with_a_warning(tmp_path: Path) -> None:
    derived = byte_level(tmp_path, None).derive()
    assert derived.model
    assert derived.model.template.user_before == ()
    assert any("no chat template" in warning for warning in derived.warnings)
    assert derived.model.warnings == derived.warnings


def test_no_tokenizer_means_token_ids_only(tmp_path: Path) -> None:
    derived = derive_text(tmp_path, "", VOCABULARY, NOW)
    assert (derived.model, derived.tokenizer_json) == (None, None)
    assert "no tokenizer" in derived.warnings[0]


def test_the_tokenizer_is_shipped_as_it_was_read(tmp_path: Path) -> None:
    assert byte_level(tmp_path, CHATML).derive().tokenizer_json == vocabularies.byte_level(CONTROL)


def test_end_tokens_are_the_tokenizers_and_the_templates(tmp_path: Path) -> None:
    checkpoint = byte_level(tmp_path, LLAMA_3, eos_token="<|endoftext|>")
    assert checkpoint.derive().end_token_ids == ids(checkpoint, "<|eot|><|endoftext|>")


def test_turns_marked_by_ordinary_text_are_a_warning(tmp_path: Path) -> None:
    template = sends_back(r"'\t' + message['role'] + '\t' + message['content'] + '\t\t'")
    warnings = sentencepiece(tmp_path, template).derive().warnings
    assert any("a user can write as well" in warning for warning in warnings), warnings


def test_tokens_beyond_the_models_vocabulary_take_the_text_away(tmp_path: Path) -> None:
    checkpoint = byte_level(tmp_path, CHATML)
    assert checkpoint.derive(vocabulary=300).model is None
    assert "only 300 tokens" in checkpoint.derive(vocabulary=300).warnings[0]


def test_special_tokens_named_beside_the_tokenizer_are_special(tmp_path: Path) -> None:
    """Transformers makes them so, and so a user must not be able to write them."""
    data = json.loads(vocabularies.byte_level(CONTROL))
    data["added_tokens"] = [token for token in data["added_tokens"] if token["content"] != "<|im_end|>"]
    checkpoint = Checkpoint(
        tmp_path, json.dumps(data).encode(), eos_token={"content": "<|im_end|>"}, chat_template=CHATML
    )
    derived = checkpoint.derive()
    assert derived.model
    assert derived.tokenizer_json
    shipped = {token["content"]: token for token in json.loads(derived.tokenizer_json)["added_tokens"]}
    assert shipped["<|im_end|>"]["special"]
    assert derived.model.template.assistant_after[0] == shipped["<|im_end|>"]["id"]


def test_the_templates_file_goes_before_the_config(tmp_path: Path) -> None:
    checkpoint = byte_level(tmp_path, CHATML)
    (tmp_path / "chat_template.jinja").write_text(LLAMA_3)
    assert checkpoint.parts().user_before == ids(checkpoint, "<|start|>user<|stop|>\n\n")


def test_of_named_templates_the_default_is_used(tmp_path: Path) -> None:
    named = [{"name": "tool_use", "template": LLAMA_3}, {"name": "default", "template": CHATML}]
    checkpoint = byte_level(tmp_path, None, chat_template=named)
    assert checkpoint.parts().user_before == ids(checkpoint, "<|im_start|>user\n")


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", ["{", "[]", "{}", '"x"'])
def test_broken_files_are_refused_by_name(tmp_path: Path, name: str, content: str) -> None:
    checkpoint = byte_level(tmp_path, CHATML)
    (tmp_path / name).write_text(content)
    if (name, content) == ("tokenizer_config.json", "{}"):
        assert checkpoint.derive().warnings
        return
    with pytest.raises(InvalidArgument, match=name) as caught:
        checkpoint.derive()
    assert caught.value.reason == Reason.CHECKPOINT_INVALID


def test_a_tokenizer_that_cannot_be_decoded_is_not_used(tmp_path: Path) -> None:
    data = json.loads(vocabularies.byte_level(CONTROL)) | {"decoder": None}
    derived = Checkpoint(tmp_path, json.dumps(data).encode(), chat_template=CHATML).derive()
    assert (derived.model, derived.tokenizer_json) == (None, None)
    assert "decoder" in derived.warnings[0]


def test_a_tokenizer_without_tokenizer_json_is_converted(tmp_path: Path) -> None:
    model = json.loads(vocabularies.byte_level(CONTROL))["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]))
    (tmp_path / "merges.txt").write_text("\n".join(" ".join(merge) for merge in model["merges"]))
    config: dict[str, Any] = {"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|im_end|>", "bos_token": "<|begin|>"}
    config |= {"unk_token": "<|endoftext|>", "chat_template": CHATML, "additional_special_tokens": ["<|im_start|>"]}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    derived = derive_text(tmp_path, "", VOCABULARY, NOW)
    assert derived.model, derived.warnings
    assert derived.model.template.user_before[0] == model["vocab"]["<|im_start|>"]
