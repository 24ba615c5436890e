"""The sentences of StreamEval: lines that state a number, questions about one of them, and the right answers.

Source: StreamingLLM (arXiv 2309.17453), section 4.4, whose lines are those of LongEval.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class FormName(StrEnum):
    """`codes` is what the demo model knows, `registers` the paper's."""

    CODES = "codes"
    REGISTERS = "registers"


@dataclass(frozen=True)
class Form:
    """Sentences with {line} and {value}. `values` are [lowest, highest]; line numbers start again after `lines`."""

    fact: str
    reply: str
    question: str
    answer: str
    values: tuple[int, int]
    lines: int


FORMS: Mapping[FormName, Form] = {
    FormName.CODES: Form(
        fact="line {line}: the code is {value}.",
        reply="Noted.",
        question="what is the code in line {line}?",
        answer="The code in line {line} is {value}.",
        values=(0, 99),
        lines=99,
    ),
    FormName.REGISTERS: Form(
        fact="line {line}: REGISTER_CONTENT is <{value}>",
        reply="OK.",
        question="What is the REGISTER_CONTENT in line {line}?",
        answer="The REGISTER_CONTENT in line {line} is <{value}>",
        values=(1, 50_000),
        lines=1_000_000,
    ),
}
