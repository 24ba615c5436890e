"""From what a client asks to what a scheduler runs: checks a turn, finds its options and its tokens."""

from __future__ import annotations

import secrets
import time
from dataclasses import replace
from functools import partial

from common.db.database import utc_now
from common.errors import FailedPrecondition, FieldViolation, InvalidArgument, Reason, SinkServeError
from common.spec.manifest import Manifest
from common.spec.model_spec import Target
from runtime_service.decoding.reply import Reply
from runtime_service.decoding.text import Text
from runtime_service.domain.options import (
    GenerationLimits,
    GenerationOptions,
    RequestedOptions,
    resolve,
    stop_at_special,
)
from runtime_service.domain.session import Session
from runtime_service.domain.tools import call_id, check_choice
from runtime_service.domain.turn import Message, Turn, TurnInput, TurnRequest
from runtime_service.engines.loaded_engine import LoadedEngine
from runtime_service.forms.form import form_of
from runtime_service.forms.matcher import Matcher
from runtime_service.forms.tool_form import tool_form
from runtime_service.scheduling.running_turn import Work, no_closing
from runtime_service.settings import RuntimeSettings
from runtime_service.turns.pending import PendingTurn

LONGEST_END = 16
"""Tokens in which a prompt of tokens says that a thought is open."""
SEED_BITS = 53  # a double holds it, and so does JSON everywhere


def prepare_turn(
    request: TurnRequest, number: int, session: Session, engine: LoadedEngine, settings: RuntimeSettings
) -> PendingTurn:
    """The turn that a request asks for; `number` is its place among the session's turns.

    Raises InvalidArgument for options out of range, and for an input that is missing, unknown or too long.
    """
    check_choice(request.generation.tool_choice, session.options.tools)
    options = options_of(request.generation, engine.manifest, engine.text, settings)
    return _pending(Turn(number, request, options, utc_now()), session, engine)


def restore_turns(unended: list[Turn], session: Session, engine: LoadedEngine) -> list[PendingTurn]:
    """Turns that another process accepted and did not end, in order; it may have begun the first."""
    again = [replace(turn, attempt=turn.attempt + (index == 0)) for index, turn in enumerate(unended)]
    return [_pending(turn, session, engine) for turn in again]


def options_of(
    requested: RequestedOptions, manifest: Manifest, text: Text, settings: RuntimeSettings
) -> GenerationOptions:
    """Every option of a turn, defaults filled in; raises InvalidArgument naming what is out of range."""
    limits = GenerationLimits(
        max_new_tokens_default=settings.max_new_tokens_default,
        max_new_tokens_limit=settings.max_new_tokens_limit,
        vocabulary_size=manifest.architecture.vocabulary,
        decodes_text=text.decodes_text,
        temperature_default=settings.temperature_default,
        speculated_tokens_default=settings.speculated_tokens,
        takes_forms=takes_forms(manifest),
    )
    options = resolve(requested, manifest.generation, limits, lambda: secrets.randbits(SEED_BITS))
    return stop_at_special(options, text.special_token)


async def matcher_of(turn: Turn, session: Session, engine: LoadedEngine) -> Matcher | None:
    """What holds the reply of a turn to its form, or its calls to theirs; raises what is wrong with that.

    Where the model decides what it calls, a form that cannot be made is none: its calls are read all the same.
    """
    options, tools = turn.options, session.options.tools
    if turn.request.no_reply:
        return None
    parts = text_of(session, engine).parts_of(options, _own_end(turn.request))
    if options.response_format is not None:
        return await engine.forms.matcher(form_of(options.response_format, parts))
    choice = options.tool_choice
    is_forced = choice is not None and choice.is_forced
    if not tools or not (is_forced or _may_hold_calls(options, engine.manifest)):
        return None
    try:
        form = tool_form(parts, tools, choice)
        return None if form is None else await engine.forms.matcher(form)
    except SinkServeError:
        if is_forced:
            raise
        return None


def _may_hold_calls(options: GenerationOptions, manifest: Manifest) -> bool:
    """Whether a reply that may call tools can be held to their form, and nothing else changes by it."""
    return takes_forms(manifest) and not options.ignore_eos and not options.stop_token_ids


def takes_forms(manifest: Manifest) -> bool:
    """Whether the engine samples here, where tokens can be left out."""
    return manifest.spec.target is not Target.TENSORRT_LLM


def text_of(session: Session, engine: LoadedEngine) -> Text:
    """The engine's text with the session's tools, and with what it chose of the chat template."""
    return engine.text.choosing(session.options.template_variables).with_tools(session.options.tools)


def prompt_of(request: TurnRequest, session: Session, manifest: Manifest, text: Text) -> tuple[int, ...]:
    """Tokens that a turn feeds; raises InvalidArgument for an input that is missing, unknown or too long."""
    check_length(request, session, text)
    tokens = _tokens(request, manifest, text)
    if request.input.token_ids is None and not request.no_reply:
        tokens += text.assistant_before
    field = _field(request.input)
    if not tokens:
        raise InvalidArgument(Reason.INVALID_FIELD, f"{field} has no tokens; at least one is needed", field=field)
    window = session.window.window
    if len(tokens) > window and not request.allow_eviction_within_turn:
        raise turn_too_long(field, len(tokens), window)
    return tokens


def check_length(request: TurnRequest, session: Session, text: Text) -> None:
    """Raise InvalidArgument (TURN_EXCEEDS_WINDOW) for an input that is too long whatever its tokens are; cheap."""
    window, ids = session.window.window, request.input.token_ids
    fewest = len(ids) if ids is not None else sum(map(text.fewest, _contents(request.input)))
    if fewest > window and not request.allow_eviction_within_turn:
        raise turn_too_long(_field(request.input), fewest, window, about="" if ids is not None else "at least ")


def begins_otherwise(request: TurnRequest, session: Session, text: Text) -> bool:
    """Whether a turn that is to run now has other tokens than `prompt_of` gave, because it is the session's first."""
    fresh = session.position == len(session.opening) and text.begins_otherwise(session.opening)
    return fresh and request.input.token_ids is None


def as_first(work: Work, request: TurnRequest, session: Session, text: Text) -> Work:
    """The work of a turn that is the first of its session."""
    messages = request.input.messages or (Message("user", request.input.text or ""),)
    tokens = text.first(messages, session.opening)
    return replace(work, prompt=tokens + (() if request.no_reply else text.assistant_before))


def check_room(session: Session, tokens: int) -> None:
    """Raise FailedPrecondition (CONTEXT_FULL) if a session that does not evict cannot take `tokens` more."""
    capacity = session.window.capacity
    if not session.evicts and session.position + tokens > capacity:
        raise FailedPrecondition(
            Reason.CONTEXT_FULL,
            f"the session has {session.position} of {capacity} tokens and does not evict; the turn has {tokens}",
            position=session.position,
            capacity=capacity,
            tokens=tokens,
        )


def _pending(turn: Turn, session: Session, engine: LoadedEngine) -> PendingTurn:
    request, manifest, text = turn.request, engine.manifest, text_of(session, engine)
    new_id = partial(call_id, turn.turn_id)
    work = Work(
        turn_id=turn.turn_id,
        prompt=prompt_of(request, session, manifest, text),
        options=turn.options,
        accepted_at=time.monotonic(),
        reply=None
        if request.no_reply
        else Reply(text, turn.options, manifest.end_token_ids, new_id, _own_end(request)),
        closing_after=no_closing if request.input.token_ids is not None else text.closing_after,
        evicts=session.evicts,
    )
    return PendingTurn(turn, work)


def _own_end(request: TurnRequest) -> tuple[int, ...] | None:
    """What a prompt of tokens ends with, which may open a thought; None: what the template has."""
    return None if request.input.token_ids is None else request.input.token_ids[-LONGEST_END:]


def _tokens(request: TurnRequest, manifest: Manifest, text: Text) -> tuple[int, ...]:
    given = request.input
    if given.text is not None:
        return text.user(given.text, no_reply=request.no_reply)
    if given.messages is not None:
        return text.messages(given.messages, no_reply=request.no_reply)
    if given.token_ids is None:
        what = "turn has no input; give it text, messages or token_ids"
        raise InvalidArgument(Reason.INVALID_FIELD, what, field="turn.input")
    _check_vocabulary(given.token_ids, manifest.architecture.vocabulary)
    return given.token_ids


def _check_vocabulary(ids: tuple[int, ...], size: int) -> None:
    if ids and not 0 <= min(ids) <= max(ids) < size:
        wrong = [(index, token) for index, token in enumerate(ids) if not 0 <= token < size]
        violations = tuple(
            FieldViolation(f"turn.token_ids.ids[{index}]", f"{token} is not a token id: they run from 0 to {size - 1}")
            for index, token in wrong[:20]
        )
        index, token = wrong[0]
        raise InvalidArgument(
            Reason.TOKEN_OUT_OF_VOCABULARY,
            f"turn.token_ids.ids[{index}] is {token}; token ids of this engine run from 0 to {size - 1}",
            violations=violations,
            token=token,
            vocabulary_size=size,
        )


def _contents(given: TurnInput) -> list[str]:
    if given.text is not None:
        return [given.text]
    return [message.content for message in given.messages or ()]


def turn_too_long(field: str, tokens: int, window: int, about: str = "") -> InvalidArgument:
    """A turn does not fit the window."""
    return InvalidArgument(
        Reason.TURN_EXCEEDS_WINDOW,
        f"{field} has {about}{tokens} tokens with the template's, and the window {window}; shorten it, "
        "or set turn.allow_eviction_within_turn",
        field=field,
        tokens=tokens,
        window=window,
    )


def _field(given: TurnInput) -> str:
    if given.text is not None:
        return "turn.text"
    return "turn.messages" if given.messages is not None else "turn.token_ids"
