"""Replies with a form: at every place the token that fits and is sampled, whatever else the steps have to do."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from common.errors import InvalidArgument
from common.window import Geometry, SessionWindow
from runtime_service.decoding.sampling import sample
from runtime_service.decoding.text import Text
from runtime_service.domain.options import GenerationOptions
from runtime_service.domain.response_format import ResponseFormat
from runtime_service.domain.turn import FinishReason
from tests.fakes.engine import expected_logits
from tests.samples.vocabularies import byte_level
from tests.samples.whole_manifests import make_manifest
from tests.unit.runtime_service.forms.replies import PADDED, fitting, matcher
from tests.unit.runtime_service.scheduling.driver import GREEDY, Driver, Talker

GEOMETRY = Geometry(sinks=2, window=40, chunk=12, slots=3)
SCHEMA = {"type": "array", "items": {"enum": ["one", "two", 3]}, "minItems": 4, "maxItems": 6}
ASKED = ResponseFormat(json_schema=json.dumps(SCHEMA))
FORMED = replace(GREEDY, max_new_tokens=400, response_format=ASKED)
SAMPLED = replace(FORMED, temperature=1.0, seed=5)
ENDS = frozenset({1, 4})
PROMPT = (9, 8, 7)


class FormDriver(Driver):
    """Its expected replies have the form of their options."""

    def expected(
        self, before: list[int], window: SessionWindow, generated: int, options: GenerationOptions
    ) -> list[int]:
        if options.response_format is None:
            return super().expected(before, window, generated, options)
        stream, own = list(before), matcher(options.response_format)
        for _ in range(generated):
            sinks = min(window.sinks, len(stream))
            held = Counter([*stream[:sinks], *stream[max(sinks, len(stream) - window.window) :]])
            logits = expected_logits(stream, window, PADDED, simple=self.engine.simple)
            stream.append(sample(logits, options, len(stream), held, np.asarray(fitting(own))).token_id)
            own.accept(stream[-1])
        return stream[len(before) :]


def driver(*, simple: bool = False) -> FormDriver:
    made = FormDriver(GEOMETRY, vocabulary=PADDED, simple=simple)
    made.text = text_of_forms()
    return made


def text_of_forms() -> Text:
    return Text(byte_level(), make_manifest(GEOMETRY, vocabulary=PADDED))


def submit(made: FormDriver, options: GenerationOptions = SAMPLED) -> Talker:
    talker = made.talker()
    own = matcher(options.response_format) if options.response_format else None
    made.submit(talker, PROMPT, options=options, matcher=own, ends=ENDS, closing=(4,))
    return talker


@pytest.mark.parametrize("options", [SAMPLED, FORMED, replace(SAMPLED, repetition_penalty=1.2, top_p=0.9, logprobs=2)])
def test_a_reply_with_a_form_stops_where_that_is_whole(options: GenerationOptions) -> None:
    made = driver()
    talker, other = submit(made, options), submit(made, replace(GREEDY, max_new_tokens=30))
    made.finish()
    outcome = talker.outcomes[0]
    assert outcome.reason is FinishReason.STOP
    assert 4 <= len(json.loads(outcome.text)) <= 6
    assert outcome.tokens[-1] == 4  # the whole closing follows: no end token was sampled
    assert other.outcomes[0].usage.generated_tokens == 30
    assert made.scheduler.masks.steps == outcome.usage.generated_tokens


@pytest.mark.parametrize("seed", range(3))
def test_drafts_change_nothing(seed: int) -> None:
    texts = []
    for drafts in (0, 15):
        made = driver(simple=True)
        talker = submit(made, replace(SAMPLED, seed=seed, temperature=0.05, speculated_tokens=drafts))
        made.finish()
        texts.append(talker.outcomes[0].tokens)
    assert talker.outcomes[0].usage.accepted_tokens > 0
    assert texts[0] == texts[1]


def test_a_reply_that_is_cut_has_length() -> None:
    made = driver()
    talker = submit(made, replace(SAMPLED, max_new_tokens=3))
    made.finish()
    assert talker.outcomes[0].reason is FinishReason.LENGTH


def test_a_reply_goes_on_in_its_form_after_it_lost_its_slot() -> None:
    made = driver()
    talker = submit(made)
    for _ in range(8):
        made.step()
    made.scheduler.pause(talker.tenant, paused=True)
    others = [submit(made, replace(GREEDY, max_new_tokens=30)) for _ in range(4)]
    for _ in range(20):
        made.step()
    made.scheduler.pause(talker.tenant, paused=False)
    made.finish()
    assert talker.outcomes[0].reason is FinishReason.STOP
    assert len(json.loads(talker.outcomes[0].text)) >= 4
    assert all(other.outcomes for other in others)


def test_an_end_that_a_grammar_names_in_the_middle_does_not_end_the_reply() -> None:
    made = driver()
    talker = submit(made, replace(FORMED, response_format=ResponseFormat(grammar='start: "a" <[1]> "b"')))
    made.finish()
    assert (talker.outcomes[0].text, talker.outcomes[0].usage.generated_tokens) == ("ab", 3)


def test_a_form_that_cannot_go_on_ends_its_turn_alone() -> None:
    made = driver()
    talker, other = submit(made), submit(made, replace(GREEDY, max_new_tokens=9))
    made.step()
    own = talker.tenant.running.work.matcher
    assert own is not None
    own.accept(0)  # fits nowhere
    made.finish()
    assert isinstance(error := talker.outcomes[0].error, InvalidArgument)
    assert "turn.generation.response_format.json_schema took the reply where it cannot go on" in error.message
    assert other.outcomes[0].reason is FinishReason.LENGTH


def test_a_reply_whose_calls_may_have_a_form_goes_on_without_it() -> None:
    made, own = driver(), matcher(ResponseFormat(regex="a{400}"))
    talker = made.talker()
    made.submit(talker, PROMPT, options=replace(GREEDY, max_new_tokens=9), matcher=own)
    own.accept(0)  # fits nowhere
    made.finish()
    assert talker.outcomes[0].usage.generated_tokens == 9  # those that the driver expects of a reply without a form
