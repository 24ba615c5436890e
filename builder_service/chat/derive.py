"""Derives how a chat template wraps a turn, in tokens, and verifies it against the template's own renderings.

First, conversations are rendered whose contents are words that no template contains. The rendering is tokenized as a
whole and cut at the tokens of those words; the pieces between them are the parts of the turn template. All turns must
have the same parts. Then contents of many kinds are encoded on their own, wrapped by the parts, and compared token by
token with the template's own rendering of the same conversation. Where they differ, the engine gets a warning, no
system prompts, or no text at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from types import MappingProxyType
from typing import Any

from builder_service.chat.chat_template import CLOCK, ChatTemplate, TemplateFailed
from builder_service.chat.turn_segments import WORDS, Unsplittable
from builder_service.chat.variants import Choice, Proven, prove_choices
from builder_service.checkpoint.checkpoint import DEFAULT_TEMPLATE, Checkpoint
from builder_service.checkpoint.tokenizer import TokenizerDescription, dumped
from common.errors import InvalidArgument, Reason, SinkServeError
from common.spec.chat.template_choices import Variables, combinations
from common.spec.manifest import TextModel, TurnTemplate
from common.text.content import control_tokens
from common.text.prefix_space import keeping_spaces, without_prefix_space
from common.text.vocabulary import Vocabulary, pieces
from common.text.wrapping import Tokens

FIELD = "spec.chat_template"
RAW = "none"
TOKENS_ONLY = "turns come as token ids only"


@dataclass(frozen=True)
class DerivedText:
    """How an engine handles text."""

    model: TextModel | None
    """None: the engine takes token ids only; `warnings` say why."""
    tokenizer_json: bytes | None
    """The file to ship as tokenizer.json; None: replies have no text either."""
    end_token_ids: Tokens = ()
    """Tokens that end a turn according to tokenizer and template, besides those of generation_config.json."""
    warnings: tuple[str, ...] = ()
    """What a person should know; also set when `model` is None, and repeated in it otherwise."""


def derive_text(
    checkpoint: Checkpoint,
    chat_template: str,
    vocabulary: int,
    now: datetime,
    variables: Variables = MappingProxyType({}),
) -> DerivedText:
    """Derive the text of a checkpoint whose token ids run below `vocabulary`.

    `chat_template` is the spec's: empty for the checkpoint's own, the name of one of its own, `none` for raw text, else
    Jinja. Templates get `variables`, each combination of their choices in turn, and `now` where they ask for the time.
    Raises InvalidArgument: INVALID_SPEC for a template of the spec that does not compile, CHECKPOINT_INVALID for
    tokenizer files that cannot be read.
    """
    described = checkpoint.tokenizer
    if described is None:
        unread = (
            f" but {name}, which is not read; it needs a tokenizer.json"
            if (name := checkpoint.unread_tokenizer)
            else ""
        )
        return _tokens_only(f"the checkpoint has no tokenizer{unread}")
    try:
        Vocabulary(described.tokenizer)
        described, hidden = _hide_beyond(described, vocabulary)
    except (SinkServeError, Unsplittable) as error:
        return _tokens_only(str(error))
    found = _derive_turns(checkpoint, described, chat_template, vocabulary, now, variables)
    return replace(found, warnings=(*found.warnings, *hidden))


def _derive_turns(  # noqa: PLR0917 - what `derive_text` takes
    checkpoint: Checkpoint,
    described: TokenizerDescription,
    chat_template: str,
    vocabulary: int,
    now: datetime,
    variables: Variables,
) -> DerivedText:
    if chat_template == RAW:
        return _raw(described)
    source, own = find_template(checkpoint, chat_template), checkpoint.chat_templates
    if source is None and own:
        named = f"the checkpoint has chat templates named {', '.join(sorted(own))}, and none named {DEFAULT_TEMPLATE}"
        return _tokens_only(f"{named}; {FIELD} can name one", described)
    if source is None:
        return _raw(described, "the checkpoint has no chat template: text is fed as it is")
    try:
        return _derive(described, _choices(source, described, variables, now), vocabulary)
    except TemplateFailed as error:
        if chat_template and chat_template not in own:
            message = f"{FIELD} is neither the name of a template of the checkpoint nor a Jinja template: {error}"
            raise InvalidArgument(Reason.INVALID_SPEC, message, field=FIELD) from None
        return _tokens_only(f"the chat template does not compile: {error}", described)


def _choices(source: str, described: TokenizerDescription, variables: Variables, now: datetime) -> list[Choice]:
    """The template with each combination of the variables' choices. Raises TemplateFailed."""
    return [
        Choice(
            {name: value for name, value in chosen.items() if isinstance(variables[name], tuple)},
            ChatTemplate(source, {**described.special, **chosen}, now),
        )
        for chosen in combinations(variables)
    ]


def find_template(checkpoint: Checkpoint, chat_template: str) -> str | None:
    """The Jinja that a spec's `chat_template` stands for, other than `none`; None if the checkpoint has none."""
    own = checkpoint.chat_templates
    return own.get(chat_template or DEFAULT_TEMPLATE, chat_template or None)


def asks_time(checkpoint: Checkpoint, chat_template: str) -> bool:
    """Whether the template that `derive_text` would use can ask for the time; it has to be called by its name.

    Raises InvalidArgument (CHECKPOINT_INVALID) for files that cannot be read.
    """
    return CLOCK in (find_template(checkpoint, chat_template) or "")


def _tokens_only(reason: str, described: TokenizerDescription | None = None) -> DerivedText:
    """Turns are given as token ids; replies still have text if there is a tokenizer to decode them."""
    warnings = (f"{reason}: {TOKENS_ONLY}",)
    if described is None:
        return DerivedText(None, None, warnings=warnings)
    return DerivedText(None, described.source, _named(described, "eos_token"), warnings)


def _derive(described: TokenizerDescription, choices: Sequence[Choice], vocabulary: int) -> DerivedText:
    """Try each way to encode contents; return the first whose tokens are those of the template's rendering."""
    reasons = []
    for contents in _ways(described.tokenizer):
        try:
            proven = prove_choices(described.library, contents, choices, vocabulary)
        except Unsplittable as error:
            reasons.append(str(error))
        else:
            return _described(described, contents, proven, [choice.template for choice in choices])
    return _tokens_only("; without a space before contents, ".join(dict.fromkeys(reasons)), described)


def _ways(tokenizer: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Tokenizers for contents: the checkpoint's own; and if that puts a space before texts, a copy that does not."""
    yield tokenizer
    plain = without_prefix_space(tokenizer)
    if plain != tokenizer:
        yield plain


def _described(
    described: TokenizerDescription, contents: dict[str, Any], proven: Proven, rendered: Sequence[ChatTemplate]
) -> DerivedText:
    control = control_tokens(contents, proven.tokens)
    warnings = list(proven.warnings)
    if any(template.asked_time for template in rendered):
        warnings.append(f"the chat template tells the time; for this engine it stays {rendered[0].now:%Y-%m-%d}")
    if control.isdisjoint((*proven.template.user_before, *proven.template.assistant_before)):
        warnings.append("the chat template marks turns by ordinary text, which a user can write as well")
    after = ([token for token in template.assistant_after if token in control] for template in proven.templates)
    ends = [tokens[0] for tokens in after if tokens]
    return _text(described, contents, TextModel(template=proven.template, variants=proven.variants), warnings, ends)


def _raw(described: TokenizerDescription, *warnings: str) -> DerivedText:
    """Text is fed as it is, after the begin token if the checkpoint uses one."""
    contents = keeping_spaces(without_prefix_space(described.tokenizer))
    begin = _begin(described)
    template = TurnTemplate(
        opening=begin,
        system_before=begin,
        user_before=(),
        user_after=(),
        assistant_before=(),
        assistant_after=(),
        no_tools="its text is fed as it is, without a chat template",
    )
    return _text(described, contents, TextModel(template=template), list(warnings), [])


def _begin(described: TokenizerDescription) -> Tokens:
    """Tokens that the tokenizer puts before a text, such as the begin token."""
    if described.adds_bos is not None:
        return _named(described, "bos_token") if described.adds_bos else ()
    alone = described.library.encode(WORDS[0], add_special_tokens=False).ids
    whole = described.library.encode(WORDS[0], add_special_tokens=True).ids
    return tuple(whole[: whole.index(alone[0])])


def _text(
    described: TokenizerDescription,
    contents: dict[str, Any],
    model: TextModel,
    warnings: list[str],
    ends: list[int],
) -> DerivedText:
    same = contents == described.tokenizer
    return DerivedText(
        model=model.model_copy(update={"warnings": tuple(warnings)}),
        tokenizer_json=described.source if same else dumped(contents),
        end_token_ids=tuple(dict.fromkeys((*ends, *_named(described, "eos_token")))),
        warnings=tuple(warnings),
    )


def _named(described: TokenizerDescription, name: str) -> Tokens:
    """Id of a special token by its name, if there is one."""
    text = described.special.get(name)
    return tuple(token["id"] for token in described.tokenizer["added_tokens"] if token["content"] == text)


def _hide_beyond(described: TokenizerDescription, vocabulary: int) -> tuple[TokenizerDescription, tuple[str, ...]]:
    """The tokenizer whose added tokens that the model does not have are special, so that no content becomes one; and
    a warning for each. Raises Unsplittable for other tokens that the model does not have.
    """
    added = described.tokenizer["added_tokens"]
    beyond = [token["content"] for token in added if token["id"] >= vocabulary and not token["special"]]
    if beyond:
        described = described.with_special(beyond)
    special = {token["id"] for token in described.tokenizer["added_tokens"] if token["special"]}
    largest = max((token for token, _ in pieces(described.tokenizer) if token not in special), default=0)
    if largest >= vocabulary:
        raise Unsplittable(f"the tokenizer has token {largest}, but the model only {vocabulary} tokens")
    text = "the tokenizer has {!r}, but the model only {} tokens: no text becomes it"
    return described, tuple(text.format(content, vocabulary) for content in beyond)
