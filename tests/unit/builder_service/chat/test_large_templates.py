"""Templates of the size and kind of those of today's largest models compile, and their turns are derived."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.samples.chat_templates import as_transformers, byte_level, conversation, ids, wrapped

_TYPES = """
{%- macro kind_of(schema) -%}
    {%- if schema.type == "array" -%}{{- kind_of(schema["items"]) + "[]" -}}
    {%- elif schema.type is defined and schema.type is iterable and schema.type is not mapping
        and schema.type is not string -%}{{- schema.type | join(" or ") -}}
    {%- elif schema.oneOf -%}
        {%- for choice in schema.oneOf -%}{{- kind_of(choice) -}}{%- if not loop.last %} | {% endif -%}{%- endfor -%}
    {%- elif schema.enum -%}{{- '"' + schema.enum | join('" | "') + '"' -}}
    {%- else -%}{{- schema.type or "any" -}}{%- endif -%}
{%- endmacro -%}
"""
_TOOLS = """
{%- macro tools_NUMBER(name, tools) -%}
    {{- "## " + name + "\\n\\n" }}
    {%- for tool in tools %}
        {%- set tool = tool.function %}
        {{- "// " + (tool.description or "") + "\\ntype " + tool.name + " = (" }}
        {%- for field, schema in (tool.parameters.properties or {}).items() %}
            {%- if schema.description %}{{- "// " + schema.description + "\\n" }}{%- endif %}
            {{- field + ("?" if field not in (tool.parameters.required or []) else "") + ": " + kind_of(schema) }}
            {%- if schema.default is defined %}{{- " // default: " + schema.default | tojson }}{%- endif %}
            {{- ",\\n" if not loop.last else "" }}
        {%- endfor %}
        {{- ") => any;\\n" }}
    {%- endfor %}
{%- endmacro -%}
"""
_HEAD = """
{%- if messages[0].role == "system" %}{% set system, said = messages[0].content, messages[1:] %}
{%- else %}{% set system, said = "", messages %}{% endif %}
{{- "<|start|>system<|stop|>\\nCurrent date: " + strftime_now("%Y-%m-%d") + "\\nReasoning: " }}
{{- (effort | default("medium")) + "<|eot|>" }}
{%- if system or tools %}{{- "<|start|>developer<|stop|>\\n" }}
    {%- if system %}{{- "# Instructions\\n\\n<|begin|>" + system }}{% endif %}
    {%- if tools %}{{- tools_0("functions", tools) }}{% endif %}{{- "<|eot|>" }}{% endif %}
"""
_TURNS = """
{%- set ns = namespace(call=none, last=-1, count=0) %}
{%- for message in said %}{% if message.role == "user" %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}
{%- for message in said %}
    {%- if message.role == "assistant" %}
        {%- if "<|stop|>" in message.content %}{{- raise_exception("no markup in a message") }}{% endif %}
        {%- if message.tool_calls %}
            {%- for call in message.tool_calls %}{% set ns.call = call.function.name %}{% set ns.count = ns.count + 1 %}
                {{- "<|start|>assistant to=functions." + ns.call + "<|stop|>" + call.function.arguments | tojson }}
            {%- endfor %}
        {%- else %}{{- "<|start|>assistant<|stop|>" + message.content + "<|eot|>" }}{% endif %}
    {%- elif message.role == "tool" %}
        {%- if ns.call is none %}{{- raise_exception("a result without a call") }}{% endif %}
        {{- "<|start|>functions." + ns.call + "<|stop|>" + message.content | tojson + "<|eot|>" }}
    {%- elif message.role == "user" %}{{- "<|start|>user<|stop|>" + message.content + "<|eot|>" }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- "<|start|>assistant<|stop|>" }}{% endif %}
"""


def harmony(repeats: int) -> str:
    """A template with as many macros as are wanted, of which one is called."""
    return _TYPES + "".join(_TOOLS.replace("NUMBER", str(at)) for at in range(repeats)) + _HEAD + _TURNS


@pytest.mark.parametrize(("repeats", "least"), [(8, 8_000), (18, 15_000), (40, 32_000)])
def test_a_template_with_tools_reasoning_and_a_date_compiles_and_is_split(
    tmp_path: Path, repeats: int, least: int
) -> None:
    template = harmony(repeats)
    assert len(template) > least
    checkpoint = byte_level(tmp_path, template, eos_token="<|eot|>")
    parts = checkpoint.parts()
    assert parts.user_before == ids(checkpoint, "<|start|>user<|stop|>")
    assert parts.assistant_before == ids(checkpoint, "<|start|>assistant<|stop|>")
    assert parts.system_before is not None
    assert parts.opening == ids(
        checkpoint, "<|start|>system<|stop|>\nCurrent date: 2031-05-17\nReasoning: medium<|eot|>"
    )


@pytest.mark.long
def test_it_renders_what_transformers_renders(tmp_path: Path) -> None:
    checkpoint = byte_level(tmp_path, harmony(18).replace('strftime_now("%Y-%m-%d")', '"today"'), eos_token="<|eot|>")
    for said in (conversation("Hi", "Hello.", "Bye"), conversation("Hi", "Yes?", "No", system="Be kind.")):
        assert wrapped(checkpoint.derive(), said) == as_transformers(checkpoint, said)
