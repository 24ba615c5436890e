"""What a client asks for is checked and becomes tokens and options; what it names in an error is the field."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from common.errors import FailedPrecondition, InvalidArgument, Reason
from common.spec.manifest import TextModel
from common.window import Geometry
from runtime_service.decoding.text import Text
from runtime_service.domain.options import RequestedOptions
from runtime_service.domain.session import OnFull
from runtime_service.domain.turn import Message, TurnInput, TurnRequest
from runtime_service.scheduling.running_turn import Work, no_closing
from runtime_service.settings import RuntimeSettings
from runtime_service.turns.input import as_first, begins_otherwise, check_room, options_of, prepare_turn, prompt_of
from tests.fakes.session.parts import SessionParts, request
from tests.samples.session_examples import SESSION
from tests.samples.vocabularies import ASSISTANT, END, USER, byte_level
from tests.samples.whole_manifests import TEMPLATE, make_manifest

MANIFEST = make_manifest(Geometry(4, 8, 4, 2), vocabulary=450, template=TEMPLATE, end_token_ids=(END,))
TEXT = Text(byte_level(), MANIFEST)
SETTINGS = RuntimeSettings()
WIDE = replace(SESSION, options=replace(SESSION.options, window_tokens=64))


def _prompt(**fields: Any) -> tuple[int, ...]:
    given = {name: fields.pop(name) for name in ("text", "messages", "token_ids") if name in fields}
    return prompt_of(TurnRequest("t", TurnInput(**given), **fields), WIDE, MANIFEST, TEXT)


def test_text_is_framed_by_the_template() -> None:
    words = TEXT.encode("hello")
    assert _prompt(text="hello") == (USER, *words, END, ASSISTANT)
    assert _prompt(text="hello", no_reply=True) == (USER, *words, END)
    messages = (Message("user", "hello"), Message("assistant", "hello"), Message("user", "hello"))
    said = (USER, *words, END)
    assert _prompt(messages=messages) == (*said, ASSISTANT, *words, END, *said, ASSISTANT)


def test_token_ids_go_in_as_they_are() -> None:
    assert _prompt(token_ids=(9, 0, 449)) == (9, 0, 449)


@pytest.mark.parametrize(
    ("given", "reason", "field"),
    [
        ({}, Reason.INVALID_FIELD, "turn.input"),
        ({"token_ids": ()}, Reason.INVALID_FIELD, "turn.token_ids"),
        ({"token_ids": (1, 450, -1)}, Reason.TOKEN_OUT_OF_VOCABULARY, "turn.token_ids.ids[1]"),
        ({"token_ids": (1,) * 65}, Reason.TURN_EXCEEDS_WINDOW, "turn.token_ids"),
        ({"text": "hello " * 99}, Reason.TURN_EXCEEDS_WINDOW, "turn.text"),
    ],
)
def test_what_is_wrong_with_an_input_is_named(given: dict[str, Any], reason: Reason, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        _prompt(**given)
    assert (caught.value.reason, caught.value.violations[0].field) == (reason, field)


def test_an_input_longer_than_the_window_is_taken_where_that_is_allowed() -> None:
    assert len(_prompt(token_ids=(1,) * 65, allow_eviction_within_turn=True)) == 65


def test_options_say_what_the_request_the_checkpoint_and_the_settings_say() -> None:
    settings = RuntimeSettings(max_new_tokens_default=5, max_new_tokens_limit=10)
    asked = TurnRequest("t", TurnInput(token_ids=(1,)), RequestedOptions(top_k=3))
    options = options_of(asked.generation, MANIFEST, TEXT, settings)
    assert (options.max_new_tokens, options.top_k, options.temperature) == (5, 3, 0.0), "the checkpoint is greedy"
    assert 0 <= options.seed < 2**53
    with pytest.raises(InvalidArgument) as caught:
        options_of(RequestedOptions(max_new_tokens=11), MANIFEST, TEXT, settings)
    assert "max_new_tokens" in caught.value.violations[0].field


@pytest.mark.parametrize(("on_full", "tokens", "room"), [("ERROR", 6, True), ("ERROR", 7, False), ("EVICT", 7, True)])
def test_a_session_that_does_not_evict_has_room_for_its_window(on_full: str, tokens: int, *, room: bool) -> None:
    session = replace(SESSION, options=replace(SESSION.options, on_full=OnFull(on_full)))
    assert (session.position, session.window.capacity) == (2, 8)
    if room:
        check_room(session, tokens)
        return
    with pytest.raises(FailedPrecondition) as caught:
        check_room(session, tokens)
    assert caught.value.reason is Reason.CONTEXT_FULL


@pytest.mark.parametrize("no_reply", [True, False])
def test_a_prepared_turn_has_all_that_the_scheduler_needs(*, no_reply: bool) -> None:
    parts = SessionParts()
    session = parts.session(on_full=OnFull.ERROR)
    pending = prepare_turn(request("t", 5, 6, no_reply=no_reply), 3, session, parts.engine, parts.shared.settings)
    assert (pending.turn.number, pending.turn.attempt, pending.turn_id) == (3, 1, "t")
    assert (pending.work.turn_id, pending.work.prompt, pending.work.options) == ("t", (5, 6), pending.turn.options)
    assert (pending.work.reply is None, pending.work.evicts) == (no_reply, False)
    assert pending.work.closing_after is no_closing, "token ids have no template"


def test_the_first_turn_to_run_is_the_first_whatever_was_accepted_before() -> None:
    template = TEMPLATE.model_copy(update={"first_user_before": (END, USER)})
    manifest = MANIFEST.model_copy(update={"text": TextModel(template=template)})
    text = Text(byte_level(), manifest)
    asked = TurnRequest("t", TurnInput(text="hello"))
    fresh = replace(WIDE, opening=template.opening, position=len(template.opening))
    options = options_of(asked.generation, manifest, text, SETTINGS)
    work = Work("t", prompt_of(asked, fresh, manifest, text), options, accepted_at=0.0, reply=None)
    assert begins_otherwise(asked, fresh, text)
    assert as_first(work, asked, fresh, text).prompt == (END, *work.prompt)
    assert not begins_otherwise(asked, replace(fresh, position=fresh.position + 1), text)
    assert not begins_otherwise(TurnRequest("t", TurnInput(token_ids=(1,))), fresh, text)


def test_a_stop_text_that_is_a_special_token_stops_at_the_token() -> None:
    options = options_of(RequestedOptions(stop=("<|end|>", "x")), MANIFEST, TEXT, SETTINGS)
    assert (options.stop, options.stop_token_ids) == (("x",), (END,))
