"""Derives how a chat template wraps a turn, in tokens, and verifies it against the template's own renderings.

Conversations are rendered with words that no template has as contents, tokenized whole, and cut at the tokens of
those words; what is left are the parts of the turn template. All turns have to be alike. Then contents of every
kind are wrapped by the parts, each encoded apart, and compared, token by token, with the template's own rendering of
the same conversation. What is not equal is not used: an engine then has a warning, no system prompts, or no text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from builder_service.chat.chat_template import CLOCK, ChatTemplate, TemplateFailed
from builder_service.chat.prefix_space import without_prefix_space
from builder_service.chat.turn_proof import prove
from builder_service.chat.turn_segments import WORDS, Speech, Tokens, TurnSegments, Unsplittable, derive_parts
from builder_service.checkpoint.checkpoint import Checkpoint
from builder_service.checkpoint.tokenizer import TokenizerDescription, dumped
from common.errors import InvalidArgument, Reason, SinkServeError
from common.spec.manifest import TextModel, TurnTemplate
from common.text.content import control_tokens, template_tokens
from common.text.vocabulary import Vocabulary, pieces

FIELD = "spec.chat_template"
RAW = "none"
TOKENS_ONLY = "turns come as token ids only"


@dataclass(frozen=True)
class DerivedText:
    """What an engine gets for text."""

    model: TextModel | None
    """None: the engine takes token ids only; `warnings` say why."""
    tokenizer_json: bytes | None
    """The file to ship as tokenizer.json; None: replies have no text either."""
    end_token_ids: Tokens = ()
    """Tokens that end a turn by what tokenizer and template say, besides those of generation_config.json."""
    warnings: tuple[str, ...] = ()
    """What a person should know, whether or not there is a model, which has them too."""


def derive_text(checkpoint: Checkpoint, chat_template: str, vocabulary: int, now: datetime) -> DerivedText:
    """Derive the text of a checkpoint whose token ids run below `vocabulary`.

    `chat_template` is the spec's: empty for the checkpoint's own, `none` for raw text, else Jinja. Templates that ask
    for the time are told `now`. Raises InvalidArgument: INVALID_SPEC for a template of the spec that does not
    compile, CHECKPOINT_INVALID for tokenizer files that cannot be read.
    """
    files = checkpoint.tokenizer
    if files is None:
        return _tokens_only("the checkpoint has no tokenizer")
    own_template = checkpoint.chat_template
    try:
        Vocabulary(files.tokenizer)
        _check_ids(files.tokenizer, vocabulary)
    except (SinkServeError, Unsplittable) as error:
        return _tokens_only(str(error))
    if chat_template == RAW:
        return _raw(files)
    source = chat_template or own_template
    if source is None:
        return _raw(files, "the checkpoint has no chat template: text is fed as it is")
    try:
        return _derive(files, ChatTemplate(source, files.special, now), vocabulary)
    except TemplateFailed as error:
        if chat_template:
            message = f"{FIELD} is not a Jinja template: {error}"
            raise InvalidArgument(Reason.INVALID_SPEC, message, field=FIELD) from None
        return _tokens_only(f"the chat template does not compile: {error}", files)


def asks_time(checkpoint: Checkpoint, chat_template: str) -> bool:
    """Whether the template that `derive_text` would use can ask for the time; it has to be called by its name.

    Raises InvalidArgument (CHECKPOINT_INVALID) for files that cannot be read.
    """
    return CLOCK in (chat_template or checkpoint.chat_template or "")


def _tokens_only(reason: str, files: TokenizerDescription | None = None) -> DerivedText:
    """Turns have no text; replies have, where `files` can be decoded."""
    warnings = (f"{reason}: {TOKENS_ONLY}",)
    if files is None:
        return DerivedText(None, None, warnings=warnings)
    return DerivedText(None, files.source, _named(files, "eos_token"), warnings)


def _derive(files: TokenizerDescription, template: ChatTemplate, vocabulary: int) -> DerivedText:
    """The first way to encode contents that stands the proof."""
    reasons = []
    for contents in _ways(files.tokenizer):
        try:
            speech = Speech(template, files.library, contents)
            parts = derive_parts(speech)
            _check_parts(parts, vocabulary)
            speech.reserve(template_tokens(parts.template))
            parts = prove(speech, parts)
        except Unsplittable as error:
            reasons.append(str(error))
        else:
            return _described(files, contents, parts, template)
    return _tokens_only("; without a space before contents, ".join(dict.fromkeys(reasons)), files)


def _ways(tokenizer: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Tokenizers for contents: the checkpoint's own, and, where it puts a space before texts, one that does not."""
    yield tokenizer
    plain = without_prefix_space(tokenizer)
    if plain != tokenizer:
        yield plain


def _described(
    files: TokenizerDescription, contents: dict[str, Any], parts: TurnSegments, template: ChatTemplate
) -> DerivedText:
    control = control_tokens(contents, template_tokens(parts.template))
    warnings = list(parts.warnings)
    if template.told_time:
        warnings.append(f"the chat template tells the time; for this engine it stays {template.now:%Y-%m-%d}")
    if control.isdisjoint((*parts.template.user_before, *parts.template.assistant_before)):
        warnings.append("the chat template marks turns by ordinary text, which a user can write as well")
    ends = [token for token in parts.template.assistant_after if token in control][:1]
    return _text(files, contents, parts.template, warnings, ends)


def _raw(files: TokenizerDescription, *warnings: str) -> DerivedText:
    """Text is fed as it is, behind the begin token where the checkpoint uses one."""
    contents = without_prefix_space(files.tokenizer)
    begin = _begin(files)
    template = TurnTemplate(
        opening=begin, system_before=begin, user_before=(), user_after=(), assistant_before=(), assistant_after=()
    )
    return _text(files, contents, template, list(warnings), [])


def _begin(files: TokenizerDescription) -> Tokens:
    """Tokens that the tokenizer puts before a text, such as the begin token."""
    if files.adds_bos is not None:
        return _named(files, "bos_token") if files.adds_bos else ()
    alone = files.library.encode(WORDS[0], add_special_tokens=False).ids
    whole = files.library.encode(WORDS[0], add_special_tokens=True).ids
    return tuple(whole[: whole.index(alone[0])])


def _text(
    files: TokenizerDescription, contents: dict[str, Any], template: TurnTemplate, warnings: list[str], ends: list[int]
) -> DerivedText:
    same = contents == files.tokenizer
    return DerivedText(
        model=TextModel(template=template, warnings=tuple(warnings)),
        tokenizer_json=files.source if same else dumped(contents),
        end_token_ids=tuple(dict.fromkeys((*ends, *_named(files, "eos_token")))),
        warnings=tuple(warnings),
    )


def _named(files: TokenizerDescription, name: str) -> Tokens:
    """Id of a special token by its name, if there is one."""
    text = files.special.get(name)
    return tuple(token["id"] for token in files.tokenizer["added_tokens"] if token["content"] == text)


def _check_ids(tokenizer: dict[str, Any], vocabulary: int) -> None:
    """Every token that a content can become has to be one of the model's."""
    added = {token["id"]: token["special"] for token in tokenizer["added_tokens"]}
    ids = [token for token, _ in pieces(tokenizer)] + [token for token, special in added.items() if not special]
    largest = max((token for token in ids if not added.get(token)), default=0)
    if largest >= vocabulary:
        raise Unsplittable(f"the tokenizer has token {largest}, but the model only {vocabulary} tokens")


def _check_parts(parts: TurnSegments, vocabulary: int) -> None:
    largest = max(template_tokens(parts.template), default=0)
    if largest >= vocabulary:
        raise Unsplittable(f"the chat template uses token {largest}, but the model has only {vocabulary} tokens")
