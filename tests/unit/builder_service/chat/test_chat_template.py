import resource
import sys
from datetime import UTC, datetime

import pytest
from jinja2.exceptions import SecurityError

from builder_service.chat import chat_template, jinja_template
from builder_service.chat.chat_template import ChatTemplate, TemplateFailed
from builder_service.chat.jinja_template import JinjaTemplate

NOW = datetime(2031, 5, 17, tzinfo=UTC)
STEPS = "to render it takes more than 500000 steps"
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
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", STEPS),
        ("{% macro f(n) %}{{ f(n - 1) + f(n - 1) if n }}{% endmacro %}{{ f(60) }}", STEPS),
        ("{{ lipsum(n=99999) }}", STEPS),
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


ONE_SECOND = """
from builder_service.chat import render_process, sandbox

sandbox.MOST_CPU_S = 1
render_process.main()
"""


@pytest.mark.long
def test_a_comparison_that_takes_no_step_ends_with_the_processor_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two lists that hold one another to a depth of 60 are compared in 2**60 operations, none a line of Python."""
    monkeypatch.setattr(chat_template, "_COMMAND", (sys.executable, "-P", "-c", ONE_SECOND))
    nested = "{% set n = namespace(a=[1], b=[1]) %}{% for i in range(60) %}{% set n.a = [n.a, n.a] %}"
    nested += "{% set n.b = [n.b, n.b] %}{% endfor %}{{ n.a == n.b }}"
    with pytest.raises(TemplateFailed, match="more than 10 s of processor time"):
        rendered(nested)


def test_a_template_is_refused_for_its_length_by_its_length() -> None:
    with pytest.raises(TemplateFailed, match="it has 262145 characters; at most 262144 are compiled"):
        rendered("x" * (2**18 + 1))


def test_compiling_has_steps_of_its_own_by_the_length_of_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long template may take more steps to compile than any rendering."""
    piece = "{% if messages[0].role == 'user' and not missing %}{{ messages[0].content | trim }}{% endif %}"
    assert rendered(piece * 500) == "Hello" * 500
    monkeypatch.setattr(jinja_template, "COMPILE_STEPS", 100)
    monkeypatch.setattr(jinja_template, "COMPILE_STEPS_EACH", 1)
    with pytest.raises(SecurityError, match=f"to compile it takes more than {100 + len(piece)} steps"):
        JinjaTemplate(piece, {}, NOW)


def test_variables_are_whatever_json_can_say() -> None:
    template = ChatTemplate("{{ thinks }}{{ effort }}{{ marks | join }}", {"thinks": False, "effort": "low"}, NOW)
    assert template.render(SAID) == "Falselow"


def test_ordinary_arithmetic_is_done() -> None:
    assert (
        rendered("{{ '=' * 3 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ 3 * 1.5 }} {{ [1] * 2 }}") == "=== 1024 0.5 4.5 [1, 1]"
    )


def test_the_limits_are_gone_when_a_rendering_ends() -> None:
    before = resource.getrlimit(resource.RLIMIT_AS), sys.gettrace()
    rendered("hello")
    assert (resource.getrlimit(resource.RLIMIT_AS), sys.gettrace()) == before
