"""Chat templates of the kinds that checkpoints come with, and tokenizer folders that have them."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from builder_service.chat.derive import DerivedText, derive_text
from builder_service.checkpoint.folder import FolderCheckpoint
from common.spec.manifest import TurnTemplate
from common.text.content import ContentEncoder, control_tokens, template_tokens
from tests.samples import vocabularies

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
        return derive_text(FolderCheckpoint(self.folder), chat_template, vocabulary, NOW)

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


def ids(checkpoint: Checkpoint, text: str) -> tuple[int, ...]:
    """Tokens of a text by the checkpoint's own tokenizer, which knows control tokens."""
    tokenizer = Tokenizer.from_file(str(checkpoint.folder / "tokenizer.json"))
    return tuple(tokenizer.encode(text, add_special_tokens=False).ids)
