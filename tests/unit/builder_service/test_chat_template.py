from datetime import UTC, datetime

import pytest

from builder_service.chat_template import ChatTemplate, TemplateFailed

NOW = datetime(2031, 5, 17, tzinfo=UTC)
SAID = [("user", "Hello"), ("assistant", 'a "quote" & é')]


def rendered(source: str, **variables: str) -> str:
    return ChatTemplate(source, variables, NOW).render(SAID)


def as_transformers(source: str, **variables: str) -> str:
    from transformers.utils.chat_template_utils import render_jinja_template

    chat = [{"role": role, "content": content} for role, content in SAID]
    found, _ = render_jinja_template([chat], chat_template=source, add_generation_prompt=False, **variables)
    return str(found[0])


@pytest.mark.parametrize(
    "source",
    [
        "{% for message in messages %}\n    {% if true %}\n  {{ message.content }}\n    {% endif %}\n{% endfor %}\n",
        "{{ messages | tojson }}{{ messages | tojson(indent=2) }}{{ messages[0] | tojson(sort_keys=true) }}",
        "{% for message in messages %}{% if loop.last %}{% break %}{% endif %}{{ message.content }}{% endfor %}",
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
        "{% generation %}{{ messages[1].content }}{% endgeneration %} and more",
        "{{ dict(a=1) | tojson }}{{ missing }}{{ bos_token }}{{ tools is none }}{{ add_generation_prompt }}",
    ],
)
def test_templates_render_as_with_transformers(source: str) -> None:
    assert rendered(source, bos_token="<s>") == as_transformers(source, bos_token="<s>")


def test_the_time_stands_still() -> None:
    template = ChatTemplate("{{ strftime_now('%Y-%m-%d') }}", {}, NOW)
    assert not template.told_time
    assert template.render(SAID) == "2031-05-17"
    assert template.told_time


def test_a_template_says_why_it_refuses() -> None:
    with pytest.raises(TemplateFailed, match="^Roles must alternate$"):
        rendered("{{ raise_exception('Roles must alternate') }}")


@pytest.mark.parametrize(
    "source", ["{% for", "{{ 1 | no_such_filter }}", "{{ messages[0].content + none }}", "{{ 1 // 0 }}"]
)
def test_whatever_goes_wrong_is_the_same_failure(source: str) -> None:
    with pytest.raises(TemplateFailed):
        rendered(source)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ dict.__subclasses__() }}",
        "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
        "{{ namespace(__init__=1) }}",
        "{{ raise_exception.__globals__.json }}",
        "{{ strftime_now.__self__.render }}",
    ],
)
def test_there_is_no_way_out_of_the_sandbox(source: str) -> None:
    with pytest.raises(TemplateFailed):
        rendered(source)
