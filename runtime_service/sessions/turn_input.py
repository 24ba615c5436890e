"""From what a client asks to what a scheduler runs: checks a turn, finds its tokens and its options. Pure."""

from __future__ import annotations

import secrets
from dataclasses import replace

from common.errors import FailedPrecondition, FieldViolation, InvalidArgument, Reason
from common.spec.manifest import Manifest
from runtime_service.decoding.reply import Reply
from runtime_service.decoding.text import Text
from runtime_service.domain.options import GenerationLimits, GenerationOptions, resolve
from runtime_service.domain.session import Session
from runtime_service.domain.turn import Turn, TurnInput, TurnRequest
from runtime_service.scheduling.running_turn import Work, no_closing
from runtime_service.settings import RuntimeSettings

LONGEST_TURN_ID = 64
SEED_BITS = 53  # a double holds it, and so does JSON everywhere


def check_turn_id(request: TurnRequest) -> TurnRequest:
    """The request with an id, drawn if it has none; raises InvalidArgument for one that is too long."""
    if len(request.turn_id) > LONGEST_TURN_ID:
        what = f"turn.turn_id has {len(request.turn_id)} characters; at most {LONGEST_TURN_ID} are allowed"
        raise InvalidArgument(Reason.INVALID_FIELD, what, field="turn.turn_id")
    return request if request.turn_id else replace(request, turn_id=secrets.token_hex(16))


def options_of(request: TurnRequest, manifest: Manifest, text: Text, settings: RuntimeSettings) -> GenerationOptions:
    """Every option of a turn, defaults filled in; raises InvalidArgument naming what is out of range."""
    limits = GenerationLimits(
        max_new_tokens_default=settings.max_new_tokens_default,
        max_new_tokens_limit=settings.max_new_tokens_limit,
        vocabulary_size=manifest.architecture.vocabulary,
        decodes_text=text.decodes_text,
        temperature_default=settings.temperature_default,
        speculated_tokens_default=settings.speculated_tokens,
    )
    return resolve(request.generation, manifest.generation, limits, lambda: secrets.randbits(SEED_BITS))


def prompt_of(request: TurnRequest, session: Session, manifest: Manifest, text: Text) -> tuple[int, ...]:
    """Tokens that a turn feeds; raises InvalidArgument for an input that is missing, unknown or too long."""
    window = session.window.window
    fewest = sum(map(text.fewest, _contents(request.input)))
    if fewest > window and not request.allow_eviction_within_turn:
        raise _too_long(_field(request.input), fewest, window, about="at least ")
    tokens = _tokens(request.input, manifest, text)
    if request.input.token_ids is None and not request.no_reply:
        tokens += text.assistant_before
    field = _field(request.input)
    if not tokens:
        raise InvalidArgument(Reason.INVALID_FIELD, f"{field} has no tokens; at least one is needed", field=field)
    if len(tokens) > window and not request.allow_eviction_within_turn:
        raise _too_long(field, len(tokens), window)
    return tokens


def prompts_of(turns: list[Turn], session: Session, manifest: Manifest, text: Text) -> list[tuple[int, ...]]:
    """Tokens of several turns that were accepted."""
    return [prompt_of(turn.request, session, manifest, text) for turn in turns]


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


def work_of(
    turn: Turn, prompt: tuple[int, ...], session: Session, manifest: Manifest, text: Text, *, accepted_at: float
) -> Work:
    """What the scheduler gets."""
    request = turn.request
    return Work(
        turn_id=turn.turn_id,
        prompt=prompt,
        options=turn.options,
        accepted_at=accepted_at,
        reply=None if request.no_reply else Reply(text, turn.options, manifest.end_token_ids),
        closing_after=no_closing if request.input.token_ids is not None else text.closing_after,
        evicts=session.evicts,
    )


def _tokens(given: TurnInput, manifest: Manifest, text: Text) -> tuple[int, ...]:
    if given.text is not None:
        return text.user(given.text)
    if given.messages is not None:
        return text.messages(given.messages)
    if given.token_ids is None:
        what = "turn has no input; give it text, messages or token_ids"
        raise InvalidArgument(Reason.INVALID_FIELD, what, field="turn.input")
    _check_vocabulary(given.token_ids, manifest.architecture.vocabulary)
    return given.token_ids


def _check_vocabulary(ids: tuple[int, ...], size: int) -> None:
    wrong = [(index, token) for index, token in enumerate(ids) if not 0 <= token < size]
    if wrong:
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


def _too_long(field: str, tokens: int, window: int, about: str = "") -> InvalidArgument:
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
