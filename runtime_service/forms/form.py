"""From what form a client asks for to a grammar of llguidance. Pure; what llguidance says of it is not known here.

A grammar is written as llguidance's JSON. Blanks in JSON are bounded, so that a reply cannot go on with them for ever.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

from runtime_service.decoding.parts.call_grammar import thought_grammar
from runtime_service.decoding.parts.reply_parts import PartForms
from runtime_service.domain.response_format import ResponseFormat
from runtime_service.forms.json_schema import read_schema

BLANKS = "[ \n]{0,8}"
"""Between the parts of JSON: a line and three levels of indentation; models write less well without any."""
TEXT = PartForms()
"""A reply that thinks nothing."""
_JSON_OPTIONS = {
    "item_separator": ",",
    "key_separator": ":",
    "whitespace_flexible": True,
    "whitespace_pattern": BLANKS,
    "coerce_one_of": False,
    "lenient": False,
}
_RISKY = ('"pattern', '"allOf"', '"oneOf"', '"multipleOf"', "&", "~", "%")
"""What intersects languages, in JSON schemas and in Lark grammars, which may have schemas inside."""


@dataclass(frozen=True)
class Form:
    """What a reply has to be: one of llguidance's grammars, as JSON text. `field` is what asked for it, for errors.

    A Lark grammar may name special tokens by `<[ID]>`, or by their text, such as `<|eot_id|>`. `thought` has a rule
    `before` of what stands before the reply, if anything does.
    """

    grammar: str
    field: str
    thought: str = ""

    @property
    def is_risky(self) -> bool:
        """Whether nobody knows how long it takes to prepare."""
        return any(word in self.grammar for word in _RISKY)

    @classmethod
    def lark(cls, grammar: str, field: str) -> Form:
        """A form by a Lark grammar, whose rule is `start`."""
        return cls(json.dumps({"lark_grammar": grammar}), field)


def form_of(asked: ResponseFormat, parts: PartForms = TEXT) -> Form:
    """The form that was asked for, behind what `parts` has the reply think; `asked` was checked.

    Raises InvalidArgument (INVALID_FIELD) for JSON schemas that are none.
    """
    return replace(_form_of(asked), thought=thought_grammar(parts))


def _form_of(asked: ResponseFormat) -> Form:
    field = asked.form
    if asked.json_schema is not None:
        schema = read_schema(asked.json_schema)
        return Form(json.dumps({"json_schema": schema | {"x-guidance": _JSON_OPTIONS}}), field)
    if asked.grammar is not None:
        return Form.lark(asked.grammar, field)
    return Form.lark(f"start: /{_slashes(asked.regex or _either(asked.choice or ()))}/", field)


def behind_spaces(form: Form, most: int) -> str:
    """What llguidance is given: the form, behind at most so many spaces, which the detokenizer leaves out.

    A vocabulary that puts a space before each text begins replies with one.
    """
    body = json.loads(form.grammar)
    if not (most or form.thought):
        return json.dumps({"grammars": [body]})
    spaces, before = f"/ {{0,{most}}}/ " if most else "", "before " if form.thought else ""
    lead = {"lark_grammar": f"start: {spaces}{before}@reply\n{form.thought}"}
    return json.dumps({"grammars": [lead, body | {"name": "reply"}]})


def _slashes(regex: str) -> str:
    """A regular expression as Lark writes it between slashes."""
    done, escaped = [], False
    for character in regex:
        done.append(r"\/" if character == "/" and not escaped else character)
        escaped = character == "\\" and not escaped
    return "".join(done)


def _either(texts: tuple[str, ...]) -> str:
    """A regular expression of exactly these texts."""
    return "|".join("".join(rf"\x{{{ord(character):X}}}" for character in text) for text in texts)
