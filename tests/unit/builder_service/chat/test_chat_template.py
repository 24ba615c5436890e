import resource
import sys
from datetime import UTC, datetime

import pytest

from builder_service.chat.chat_template import ChatTemplate, TemplateFailed

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
    assert not template.asked_time
    assert template.render(SAID) == "2031-05-17"
    assert template.asked_time


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


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{{ 'a' * 10**10 }}", r"result of \* is too large"),
        ("{{ 10**9 * [1] }}", r"result of \* is too large"),
        ("{{ 10 ** (10**8) }}", r"result of \*\* is too large"),
        ("{% set n = namespace(n=9) %}{% for i in range(99) %}{% set n.n = n.n * n.n %}{% endfor %}", "too large"),
        ("{{ range(10**9) | list }}", "Range too big"),
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "more than 500000 steps"),
        ("{% macro f(n) %}{{ f(n - 1) + f(n - 1) if n }}{% endmacro %}{{ f(60) }}", "more than 500000 steps"),
        ("{{ lipsum(n=99999) }}", "more than 500000 steps"),
        ("{{ 'a' | center(9999999) }}", "renders more than 1048576 characters"),
        ("{{ '%0999999999d' % 5 }}", "MemoryError"),
        ("{{ 'a' | center(999999999) }}", "MemoryError"),
        ("{{ 'a'.ljust(9999999999) }}", "MemoryError"),
        ("{{ messages | tojson(indent=999999999) }}", "MemoryError"),
        ("{% set n = namespace(s='a') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}", "MemoryError"),
        ("{{" + "(" * 5000 + "1" + ")" * 5000 + "}}", "recursion"),
    ],
)
def test_a_template_that_would_never_end_or_fill_the_memory_is_refused(source: str, said: str) -> None:
    with pytest.raises(TemplateFailed, match=said):
        rendered(source)


def test_ordinary_arithmetic_is_done() -> None:
    assert (
        rendered("{{ '=' * 3 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ 3 * 1.5 }} {{ [1] * 2 }}") == "=== 1024 0.5 4.5 [1, 1]"
    )


def test_the_limits_are_gone_when_a_rendering_ends() -> None:
    before = resource.getrlimit(resource.RLIMIT_AS), sys.gettrace()
    rendered("hello")
    assert (resource.getrlimit(resource.RLIMIT_AS), sys.gettrace()) == before
