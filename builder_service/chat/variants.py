"""Proves a chat template once for each combination of the choices that a spec declares.

All combinations are said with one tokenizer, since an engine has one: what is a control token of any of them is one for
all. A combination that is not proven is left out of the engine, with a warning; the defaults have to be.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

from builder_service.chat.chat_template import ChatTemplate, TemplateFailed
from builder_service.chat.turn_proof import prove
from builder_service.chat.turn_segments import TemplateTokenizer, TurnSegments, Unsplittable, derive_parts
from common.spec.chat.template_choices import Value, shown
from common.spec.manifest import TemplateVariant, TurnTemplate
from common.text.content import template_tokens


@dataclass(frozen=True)
class Choice:
    """A chat template with one combination of values; `variables` are those that have choices."""

    variables: Mapping[str, Value]
    template: ChatTemplate


@dataclass(frozen=True)
class Proven:
    """What was proven with the defaults, and with other combinations, with what a person should know."""

    template: TurnTemplate
    variants: tuple[TemplateVariant, ...]
    warnings: tuple[str, ...]

    @property
    def templates(self) -> tuple[TurnTemplate, ...]:
        """Of every combination, the defaults first."""
        return self.template, *(variant.template for variant in self.variants)

    @property
    def tokens(self) -> frozenset[int]:
        """Every token of any."""
        return frozenset().union(*map(template_tokens, self.templates))


def prove_choices(library: Tokenizer, contents: dict[str, Any], choices: Sequence[Choice], vocabulary: int) -> Proven:
    """Prove the combinations `choices`, the defaults first, with `contents` as the tokenizer of what is said.

    Raises Unsplittable for the defaults alone.
    """
    cut = [_cut(TemplateTokenizer(choice.template, library, contents), vocabulary) for choice in choices]
    used = frozenset().union(*(template_tokens(parts.template) for _, parts in cut if isinstance(parts, TurnSegments)))
    default, *others = (_proven(*found, used) for found in cut)
    if isinstance(default, Unsplittable):
        raise default
    named = list(zip(choices[1:], others, strict=True))
    return Proven(
        template=default.template,
        variants=tuple(
            TemplateVariant(variables=dict(choice.variables), template=found.template)
            for choice, found in named
            if isinstance(found, TurnSegments)
        ),
        warnings=(*default.warnings, *(text for pair in named for text in _warnings(*pair, default.warnings))),
    )


def _cut(tokenizer: TemplateTokenizer, vocabulary: int) -> tuple[TemplateTokenizer, TurnSegments | Unsplittable]:
    try:
        parts = derive_parts(tokenizer)
    except Unsplittable as error:
        return tokenizer, error
    if (largest := max(template_tokens(parts.template), default=0)) < vocabulary:
        return tokenizer, parts
    why = f"the chat template uses token {largest}, but the model has only {vocabulary} tokens"
    return tokenizer, Unsplittable(why)


def _proven(
    tokenizer: TemplateTokenizer, parts: TurnSegments | Unsplittable, used: frozenset[int]
) -> TurnSegments | Unsplittable:
    if isinstance(parts, Unsplittable):
        return parts
    tokenizer.reserve(used)
    try:
        return prove(tokenizer, parts)
    except (Unsplittable, TemplateFailed) as error:
        return error if isinstance(error, Unsplittable) else Unsplittable(str(error))


def _warnings(choice: Choice, found: TurnSegments | Unsplittable, known: Sequence[str]) -> Iterator[str]:
    name = " and ".join(f"{name} {shown(value)}" for name, value in choice.variables.items())
    if isinstance(found, Unsplittable):
        yield f"sessions cannot choose {name}: {found}"
    else:
        yield from (f"with {name}: {text}" for text in found.warnings if text not in known)
