"""Chat templates of the kinds that checkpoints come with, and tokenizer folders that have them."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from builder_service.chat.derive import DerivedText, derive_text
from builder_service.checkpoint.folder import FolderCheckpoint
from common.spec.chat.template_choices import Variables
from common.spec.manifest import TurnTemplate
from common.text.content import ContentEncoder, control_tokens, template_tokens
from common.text.prefix_space import without_prefix_space
from common.text.wrapping import Wrapping
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
ZEPHYR_TEXT = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + '\n\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
"""Turns are marked by ordinary text, whose first token is another at the beginning of a text."""
ALWAYS_APPENDS = CHATML.replace("{% if add_generation_prompt %}", "{% if true %}")
REASONING = CHATML.replace(
    "{{ '<|im_start|>assistant\n' }}{% endif %}", "{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
)
_ALTERNATE = (
    "{% set first = messages[0]['role'] == 'system' %}{% set said = messages[1:] if first else messages %}"
    "{% for message in said %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate') }}{% endif %}"
)
GEMMA_3 = (
    "{{ bos_token }}"
    + _ALTERNATE
    + "{{ '<|im_start|>' + ('model' if message['role'] == 'assistant' else 'user') + '\n' }}"
    "{% if first and loop.first %}{{ messages[0]['content'] + '\n\n' }}{% endif %}"
    "{{ message['content'] | trim + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>model\n' }}{% endif %}"
)
"""A system prompt goes before the first thing that the user says."""
MISTRAL_3 = (
    "{{ bos_token }}" + _ALTERNATE + "{% if message['role'] == 'user' %}{{ '<|start|>' }}"
    "{% if first and loop.last %}{{ messages[0]['content'] + '\n\n' }}{% endif %}"
    "{{ message['content'] + '<|stop|>' }}{% else %}{{ message['content'] + '<|eot|>' }}{% endif %}{% endfor %}"
)
"""A system prompt goes before the last thing that the user says."""
SMOL = (
    "{{ '<|im_start|>system\n## Metadata\n\n' }}{% if messages[0]['role'] == 'system' %}"
    "{{ '## Custom Instructions\n\n' + messages[0]['content'] + '\n\n' }}{% endif %}{{ '<|im_end|>\n' }}"
    "{% for message in messages %}{% if message['role'] != 'system' %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""The text behind a system prompt becomes one token with the end of it."""
ALPACA = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "{{ '### Response:\n' + message['content'] + eos_token + '\n\n' }}{% else %}"
    "{{ ('### Instruction:\n' if message['role'] == 'user' else '') + message['content'] + '\n\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}"
)
"""The text behind what a user says becomes one token with the end of it."""
_TOOL_TURNS = (
    "{% for message in messages %}{% if message.role == 'tool' %}"
    "{% if loop.previtem.role != 'tool' %}{{ '<|im_start|>user' }}{% endif %}"
    "{{ '\n<tool_response>\n' + message.content + '\n</tool_response>' }}"
    "{% if loop.last or loop.nextitem.role != 'tool' %}{{ '<|im_end|>\n' }}{% endif %}"
    "{% elif message.tool_calls %}{{ '<|im_start|>assistant' }}"
    "{% if message.content %}{{ '\n' + message.content }}{% endif %}"
    "{% for call in message.tool_calls %}{% set call = call.function %}{{ '\n<tool_call>' }}"
    "{{ '\n{\"name\": \"' + call.name + '\", \"arguments\": ' + call.arguments | tojson + '}\n</tool_call>' }}"
    "{% endfor %}{{ '<|im_end|>\n' }}"
    "{% elif message.role != 'system' %}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
QWEN_TOOLS = (
    "{% set said = messages[0].content if messages[0].role == 'system' else '' %}"
    "{% if tools %}{{ '<|im_start|>system\n' + (said + '\n\n' if said else '') + '# Tools\n\nIn XML tags:\n<tools>' }}"
    "{% for tool in tools %}{{ '\n' + tool | tojson }}{% endfor %}"
    "{{ '\n</tools>\n\nCall them in XML tags:\n<tool_call>\nJSON\n</tool_call><|im_end|>\n' }}"
    "{% elif said %}{{ '<|im_start|>system\n' + said + '<|im_end|>\n' }}{% endif %}"
) + _TOOL_TURNS
"""As of Qwen2.5 and Qwen3: `<tool_call>` may be a token or not."""
LLAMA_TOOLS = (
    "{{ bos_token }}{% if tools_in_user_message is not defined %}{% set tools_in_user_message = true %}{% endif %}"
    "{% if messages[0].role == 'system' %}{% set said = messages[0].content | trim %}{% set messages = messages[1:] %}"
    "{% else %}{% set said = '' %}{% endif %}"
    "{{ '<|start|>system<|stop|>\n\n' }}{% if tools %}{{ 'Environment: ipython\n' }}{% endif %}"
    "{% if tools and not tools_in_user_message %}{{ 'You have functions.\n\n' }}"
    "{% for tool in tools %}{{ tool | tojson(indent=4) + '\n\n' }}{% endfor %}{% endif %}{{ said + '<|eot|>' }}"
    "{% if tools and tools_in_user_message %}{% set first = messages[0].content | trim %}"
    "{% set messages = messages[1:] %}{{ '<|start|>user<|stop|>\n\nGiven these functions.\n\n' }}"
    "{% for tool in tools %}{{ tool | tojson(indent=4) + '\n\n' }}{% endfor %}{{ first + '<|eot|>' }}{% endif %}"
    "{% for message in messages %}{% if message.role == 'tool' %}{{ '<|start|>ipython<|stop|>\n\n' }}"
    "{{ (message.content | tojson if message.content is iterable else message.content) + '<|eot|>' }}"
    "{% elif 'tool_calls' in message %}"
    "{% if message.tool_calls | length != 1 %}{{ raise_exception('one call at a time') }}{% endif %}"
    '{% set call = message.tool_calls[0].function %}{{ \'<|start|>assistant<|stop|>\n\n{"name": "\' + call.name }}'
    "{{ '\", \"parameters\": ' + call.arguments | tojson + '}<|eot|>' }}"
    "{% else %}{{ '<|start|>' + message.role + '<|stop|>\n\n' + message.content | trim + '<|eot|>' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant<|stop|>\n\n' }}{% endif %}"
)
"""As of Llama 3.1 to 3.3: one call a turn, results as JSON strings."""
MISTRAL_TOOLS = (
    "{{ bos_token }}{% set first = messages[0].role == 'system' %}"
    "{% set said = messages[1:] if first else messages %}"
    "{% set users = said | selectattr('role', 'equalto', 'user') | list %}{% for message in said %}"
    "{% if message.role == 'user' %}{% if tools and message == users[-1] %}"
    "{{ '[AVAILABLE_TOOLS][' }}{% for tool in tools %}{{ tool | tojson }}{{ ', ' if not loop.last }}{% endfor %}"
    "{{ '][/AVAILABLE_TOOLS]' }}{% endif %}"
    "{{ '[INST]' + (messages[0].content + '\n\n' if first and loop.last else '') + message.content + '[/INST]' }}"
    "{% elif message.tool_calls %}{{ '[TOOL_CALLS][' }}{% for call in message.tool_calls %}"
    '{{ \'{"name": "\' + call.function.name + \'", "arguments": \' + call.function.arguments | tojson }}'
    "{% if call.id | length != 9 %}{{ raise_exception('ids have 9 characters') }}{% endif %}"
    "{{ ', \"id\": \"' + call.id + '\"}' }}{{ ', ' if not loop.last else ']' + eos_token }}{% endfor %}"
    "{% elif message.role == 'tool' %}{{ '[TOOL_RESULTS]{\"content\": ' + message.content + ', \"call_id\": \"' }}"
    "{{ message.tool_call_id + '\"}[/TOOL_RESULTS]' }}"
    "{% else %}{{ message.content + eos_token }}{% endif %}{% endfor %}"
)
"""As of Mistral Nemo: tools before the last message of the user."""
MISTRAL_TOKENS = (
    "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"
)  # fmt: skip
QWEN_TOKENS = ("<tool_call>", "</tool_call>")
FOREIGN_TOOLS = QWEN_TOOLS.replace('{"name": "', "<function=").replace('", "arguments": ', ">")
"""Calls in a form that is not known."""
CONTROL = ("<|begin|>", "<|im_start|>", "<|im_end|>", "<|start|>", "<|stop|>", "<|eot|>", "<|endoftext|>")


class Checkpoint:
    """A folder with tokenizer files, and what transformers makes of a conversation with it."""

    def __init__(self, folder: Path, tokenizer: bytes, **config: Any) -> None:
        self.folder = folder
        (folder / "tokenizer.json").write_bytes(tokenizer)
        fields = {"tokenizer_class": "PreTrainedTokenizerFast", **config}
        (folder / "tokenizer_config.json").write_text(json.dumps(fields))

    def derive(
        self, chat_template: str = "", vocabulary: int = VOCABULARY, variables: Variables | None = None
    ) -> DerivedText:
        return derive_text(FolderCheckpoint(self.folder), chat_template, vocabulary, NOW, variables or {})

    def library(self) -> Tokenizer:
        return Tokenizer.from_file(str(self.folder / "tokenizer.json"))

    def parts(self, chat_template: str = "") -> TurnTemplate:
        derived = self.derive(chat_template)
        assert derived.model is not None, derived.warnings
        return derived.model.template


def byte_level(folder: Path, template: str | None, added: tuple[str, ...] = (), **config: Any) -> Checkpoint:
    named = {"bos_token": "<|begin|>", "eos_token": "<|im_end|>", "chat_template": template}
    kept = {key: value for key, value in {**named, **config}.items() if value is not None}
    return Checkpoint(folder, vocabularies.byte_level(CONTROL, added), **kept)


def sentencepiece(folder: Path, template: str | None, **config: Any) -> Checkpoint:
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "chat_template": template}
    kept = {key: value for key, value in {**named, **config}.items() if value is not None}
    return Checkpoint(folder, vocabularies.sentencepiece(), **kept)


def wrapped(derived: DerivedText, said: Sequence[Mapping[str, str]]) -> list[int]:
    """A conversation up to where a reply begins, put together as a runtime does it."""
    assert derived.model
    assert derived.tokenizer_json
    template, tokenizer = derived.model.template, json.loads(derived.tokenizer_json)
    control = control_tokens(tokenizer, template_tokens(template))
    spaced, unspaced = (ContentEncoder(kind, control) for kind in (tokenizer, without_prefix_space(tokenizer)))
    contents = [(message["role"], message["content"]) for message in said]
    system = contents.pop(0)[1] if contents[0][0] == "system" else ""
    return list(Wrapping(template, spaced.encode, unspaced.encode).conversation(contents, system))


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
    return tuple(checkpoint.library().encode(text, add_special_tokens=False).ids)
