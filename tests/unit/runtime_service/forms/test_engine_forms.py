"""Whatever fits is a reply that matches, on every kind of vocabulary; what cannot be is refused by name."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import threading
import time
from typing import Any

import jsonschema
import pytest

from common.errors import InvalidArgument, Reason, ResourceExhausted
from runtime_service.domain.response_format import ResponseFormat
from runtime_service.forms import engine_forms, trial
from runtime_service.forms.engine_forms import EngineForms
from runtime_service.forms.form import Form, form_of
from tests.unit.runtime_service.forms.replies import TOKENIZERS, fitting, forms_of, matcher, reply, text_of

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 8},
        "Größe 世": {"type": "number", "minimum": -3, "maximum": 250},
        "kind": {"enum": ["cat", "dog/🙂", None, 7]},
        "tags": {"type": "array", "items": {"type": "string", "pattern": "^[a-z]{1,4}$"}, "maxItems": 3},
    },
    "required": ["name", "kind"],
    "additionalProperties": False,
}
EVERY = pytest.mark.parametrize("tokenizer", TOKENIZERS)


def schema_of(schema: Any) -> ResponseFormat:
    return ResponseFormat(json_schema=json.dumps(schema))


@EVERY
@pytest.mark.parametrize("seed", range(4))
def test_json_is_by_its_schema(tokenizer: str, seed: int) -> None:
    text = reply(schema_of(SCHEMA), tokenizer, seed)
    assert text is not None
    jsonschema.validate(json.loads(text), SCHEMA)
    assert not re.search(r"\s{9}", text)


@EVERY
def test_text_matches_its_expression(tokenizer: str) -> None:
    expression = r'(ab|ü/🙂|\\/"){2,9}\.'
    texts = {reply(ResponseFormat(regex=expression), tokenizer, seed) for seed in range(6)}
    assert len(texts) > 1
    assert all(re.fullmatch(expression, text or "") for text in texts)


@EVERY
def test_a_choice_is_one_of_its_texts(tokenizer: str) -> None:
    texts = ("yes", "no", "ye", "a.b*", 'say "\\n"', "\x7f\n\t", "世界 🙂", " spaced ")
    said = {reply(ResponseFormat(choice=texts), tokenizer, seed) for seed in range(30)}
    assert len(said) > 3
    assert said <= {text.removeprefix(" ") for text in texts} if tokenizer != "byte_level" else said <= set(texts)


@EVERY
def test_a_grammar_holds(tokenizer: str) -> None:
    grammar = 'start: NAME "=" sum\nsum: NUMBER ("+" NUMBER)*\nNAME: /[a-z]{1,3}/\nNUMBER: /[0-9]{1,2}/'
    said = [reply(ResponseFormat(grammar=grammar), tokenizer, seed) for seed in range(3)]
    assert all(re.fullmatch(r"[a-z]{1,3}=\d{1,2}(\+\d{1,2})*", text or "") for text in said)


def test_a_reply_ends_without_any_end_token() -> None:
    assert reply(ResponseFormat(choice=("yes", "no")), "byte_level", 1, ends=False) in {"yes", "no"}


def test_padding_and_tokens_without_text_never_fit() -> None:
    some = fitting(matcher(ResponseFormat(regex="(.|\n)+")))
    text = text_of("byte_level")
    assert all(text.token_bytes(token) for token in some)
    assert not set(some) & text.vocabulary.special


def test_special_tokens_are_named_by_id_or_text_in_a_grammar() -> None:
    async def both() -> list[list[int]]:
        forms = forms_of("byte_level")
        forms._tokenizer = None
        asked = [Form.lark(f"start: {name} /a+/", "tools") for name in ("<[3]>", "<|user|>")]
        return [fitting(await forms.matcher(each)) for each in asked]

    assert asyncio.run(both()) == [[3], [3]]


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (schema_of({"not": {}}), 'json_schema is refused: Unimplemented keys: ["not"]'),
        (schema_of({"type": "integer", "minimum": 5, "maximum": 3}), "minimum (5) is greater than maximum (3)"),
        (schema_of({"$ref": "https://example.com/schema"}), "json_schema is refused: Resource 'https://example.com"),
        (schema_of({"type": "objekt"}), "Invalid type: objekt"),
        (schema_of(False), "has to be an object"),
        (ResponseFormat(regex="(a"), "regex is refused: .* unclosed group"),
        (ResponseFormat(grammar="start: missing"), "grammar is refused: .* missing"),
        (ResponseFormat(grammar='start: ""'), "grammar allows no text"),
    ],
)
def test_what_cannot_be_is_refused_by_name(asked: ResponseFormat, why: str) -> None:
    pattern = f"turn.generation.response_format.*{why if '.*' in why else re.escape(why)}"
    with pytest.raises(InvalidArgument, match=pattern) as caught:
        matcher(asked)
    assert caught.value.reason is Reason.INVALID_FIELD


@EVERY
@pytest.mark.parametrize(
    "asked",
    [
        ResponseFormat(regex="()"),
        ResponseFormat(regex=r"[^\s\S]"),
        ResponseFormat(grammar="start: @reply"),
        ResponseFormat(grammar="start: start"),
        schema_of({"$ref": "#"}),
    ],
)
def test_what_nothing_fits_is_refused_on_every_vocabulary(asked: ResponseFormat, tokenizer: str) -> None:
    with pytest.raises(InvalidArgument, match="nothing fits it|allows no text|unknown grammar @reply"):
        matcher(asked, tokenizer)


def test_as_many_properties_as_a_schema_may_have_may_all_be_left_out() -> None:
    properties = {f"p{number}": {"type": "boolean"} for number in range(1000)}
    own = matcher(schema_of({"type": "object", "properties": properties}))
    own.accept(next(token for token in fitting(own) if text_of("byte_level").token_bytes(token) == b"{"))
    assert fitting(own)
    assert own.error is None


ENDLESS = schema_of({"allOf": [{"type": "string", "pattern": f"x{i}.*y{i}"} for i in range(20)]})
IN_GRAMMAR = ResponseFormat(grammar='start: %json {"multiple\\u004ff": 123456789}')


BEHIND_TOKENS = ResponseFormat(grammar='start: <[4]> <|user|> <[900]> %json {"multipleOf": 123456789}')


@pytest.mark.parametrize("asked", [ENDLESS, IN_GRAMMAR, BEHIND_TOKENS])
def test_what_never_ends_is_stopped_and_refused(asked: ResponseFormat, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_forms, "DEADLINE_S", 1.0)
    with pytest.raises(InvalidArgument, match="takes more than 1 s to prepare; make it simpler"):
        matcher(asked)


def test_what_was_refused_is_not_tried_again_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[object] = []
    make = EngineForms._made

    def counted(*asked: Any) -> Any:
        tried.append(asked)
        return make(*asked)

    monkeypatch.setattr(EngineForms, "_made", counted)
    for refused_s, count in ((600, 1), (-1, 2)):
        tried.clear()
        monkeypatch.setattr(engine_forms, "REFUSED_S", refused_s)
        for _ in range(2):
            with pytest.raises(InvalidArgument, match="unclosed group"):
                matcher(ResponseFormat(regex=f"({refused_s}"))
        assert len(tried) == count


def test_what_takes_more_memory_than_it_may_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "_COMMAND", (sys.executable, "-c", "raise MemoryError"))
    with pytest.raises(InvalidArgument, match="takes more than 2 GiB of memory to prepare"):
        matcher(schema_of({"type": "string", "pattern": "^only here$"}))


def test_while_others_are_prepared_a_form_waits_and_is_told_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, release = threading.Semaphore(0), threading.Event()

    def slow(*_: Any) -> Any:
        begun.release()
        release.wait()
        raise ValueError("whatever")

    async def ask() -> None:
        forms = forms_of("byte_level")
        forms._tokenizer = None
        await forms.matcher(form_of(ResponseFormat(regex="a")))
        monkeypatch.setattr(EngineForms, "_made", slow)
        others = [asyncio.create_task(forms.matcher(form_of(ResponseFormat(regex=f"b{{{n}}}")))) for n in (1, 2)]
        await asyncio.to_thread(lambda: [begun.acquire() for _ in others])
        monkeypatch.setattr(engine_forms, "DEADLINE_S", 0.01)
        try:
            with pytest.raises(ResourceExhausted, match="being prepared") as caught:
                await forms.matcher(form_of(ResponseFormat(regex="c")))
            assert caught.value.reason is Reason.CAPACITY_EXHAUSTED
        finally:
            release.set()
        assert [type(error) for error in await asyncio.gather(*others, return_exceptions=True)] == [ValueError] * 2

    asyncio.run(ask())


def test_a_form_that_many_ask_for_at_once_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Form] = []
    make = EngineForms._made

    def counted(self: EngineForms, tokenizer: Any, form: Form) -> Any:
        made.append(form)
        return make(self, tokenizer, form)

    monkeypatch.setattr(EngineForms, "_made", counted)

    async def ask() -> None:
        forms = forms_of("byte_level")
        good, bad = (form_of(ResponseFormat(regex=regex)) for regex in ("once", "(once"))
        first, *others = [asyncio.create_task(forms.matcher(form)) for form in (good, bad) for _ in range(8)]
        await asyncio.sleep(0)
        first.cancel()  # whoever asked first may leave
        became = await asyncio.gather(*others, return_exceptions=True)
        assert [isinstance(each, InvalidArgument) for each in became] == [False] * 7 + [True] * 8

    asyncio.run(ask())
    assert len(made) == 2


def test_a_form_that_waited_for_others_has_its_whole_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_forms, "DEADLINE_S", 2.0)
    make = EngineForms._made

    def slow(*asked: Any) -> Any:
        time.sleep(1.2)
        return make(*asked)

    async def ask() -> None:
        forms = forms_of("byte_level")
        monkeypatch.setattr(EngineForms, "_made", slow)
        await asyncio.gather(*(forms.matcher(form_of(ResponseFormat(regex=regex))) for regex in ("1", "2", "3")))

    asyncio.run(ask())
