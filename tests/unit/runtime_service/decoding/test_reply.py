from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from builder_service.chat.tools.formats import FORMATS
from common.spec.manifest import TurnTemplate
from common.window import Geometry
from runtime_service.decoding.delta import Delta, TopLogprob
from runtime_service.decoding.parts import reply_parts
from runtime_service.decoding.parts.reply_parts import PartForms, ReplyParts
from runtime_service.decoding.reply import Finish, Reply
from runtime_service.decoding.sampling import Sampled
from runtime_service.decoding.text import Text
from runtime_service.domain.options import GenerationOptions
from runtime_service.domain.response_format import ResponseFormat
from runtime_service.domain.turn import FinishReason
from tests.samples import vocabularies
from tests.samples.vocabularies import END
from tests.samples.whole_manifests import make_manifest

TOKENIZER = Tokenizer.from_str(vocabularies.byte_level().decode())
TEMPLATE = TurnTemplate(
    opening=(), system_before=None, user_before=(), user_after=(), assistant_before=(), assistant_after=()
)
MANIFEST = make_manifest(Geometry(0, 8, 4, 1), template=TEMPLATE, end_token_ids=(END,))
TEXT = Text(vocabularies.byte_level(), MANIFEST)
SINGLE = {bytes([byte]): next(t for t in range(5, 600) if TEXT.token_bytes(t) == bytes([byte])) for byte in range(256)}


def reply(**changes: Any) -> Reply:
    return Reply(TEXT, GenerationOptions(**{"max_new_tokens": 10_000, **changes}), (END,))


def tokens(text: str) -> list[int]:
    return list(TOKENIZER.encode(text).ids)


@dataclass
class Said:
    text: str
    token_ids: list[int]
    deltas: list[Delta]
    finished: Finish | None


def run(subject: Reply, sampled: list[int]) -> Said:
    deltas = []
    for token in sampled:
        deltas.append(subject.push(Sampled(token)))
        if subject.finished:
            break
    last = subject.flush()
    deltas += [last] if last else []
    ids = [token for delta in deltas for token in delta.token_ids]
    return Said("".join(delta.text for delta in deltas), ids, deltas, subject.finished)


def test_tokens_come_out_as_text() -> None:
    said = run(reply(), tokens("Hello there! 🙂"))
    assert (said.text, said.finished) == ("Hello there! 🙂", None)


def test_an_end_token_ends_the_reply_and_is_no_text() -> None:
    said = run(reply(), [*tokens("Hello"), END, *tokens("more")])
    assert (said.text, said.finished) == ("Hello", Finish(FinishReason.STOP))
    assert said.token_ids == [*tokens("Hello"), END]


def test_end_tokens_can_be_ignored() -> None:
    said = run(reply(ignore_eos=True), [*tokens("Hello"), END, *tokens(" there")])
    assert (said.text, said.finished) == ("Hello there", None)


def test_a_stop_token_ends_the_reply_and_is_no_text() -> None:
    stop = tokens("!")[0]
    for ignore_eos in (False, True):
        said = run(reply(stop_token_ids=(stop,), ignore_eos=ignore_eos), tokens("Hello!"))
        assert (said.text, said.finished) == ("Hello", Finish(FinishReason.STOP))
        assert said.token_ids == tokens("Hello!")


def test_a_reply_ends_at_its_longest() -> None:
    said = run(reply(max_new_tokens=2), tokens("Hello there! What"))
    assert (said.text, said.finished) == ("Hello there", Finish(FinishReason.LENGTH))
    assert len(said.token_ids) == 2


def test_an_end_at_the_last_token_counts_as_one() -> None:
    assert run(reply(max_new_tokens=1), [END]).finished == Finish(FinishReason.STOP)
    said = run(reply(max_new_tokens=1, stop=("Hello",)), tokens("Hello"))
    assert said.finished == Finish(FinishReason.STOP, "Hello")


def test_a_stop_text_ends_the_reply_and_is_not_said_but_its_tokens_are_kept() -> None:
    said = run(reply(stop=(" there",)), tokens("Hello there! What"))
    assert (said.text, said.finished) == ("Hello", Finish(FinishReason.STOP, " there"))
    assert said.token_ids == tokens("Hello there")


def test_text_in_the_stop_texts_last_token_is_cut_too() -> None:
    said = run(reply(stop=("the",)), tokens("Hello there"))
    assert (said.text, said.finished) == ("Hello ", Finish(FinishReason.STOP, "the"))


def test_text_that_was_held_back_comes_when_the_reply_ends_otherwise() -> None:
    sampled = tokens("Hello the")
    assert run(reply(stop=("the end",)), sampled).text == "Hello the"
    assert run(reply(stop=("the end",)), [*sampled, END]).text == "Hello the"
    assert run(reply(stop=("the end",), max_new_tokens=len(sampled)), sampled).text == "Hello the"


def test_the_delta_that_ends_the_reply_holds_what_was_held_back() -> None:
    subject = reply(stop=("Hello!",))
    assert subject.push(Sampled(tokens("Hello")[0])) == Delta("", (tokens("Hello")[0],))
    assert subject.push(Sampled(END)) == Delta("Hello", (END,))
    assert subject.flush() is None


def test_a_character_is_said_with_its_last_token() -> None:
    subject = reply()
    texts = [subject.push(Sampled(SINGLE[bytes([byte])])).text for byte in "🙂".encode()]
    assert texts == ["", "", "", "🙂"]


def test_an_incomplete_character_at_the_end_is_not_said() -> None:
    said = run(reply(), [*tokens("Hello"), SINGLE[b"\xf0"], END])
    assert (said.text, said.token_ids[-2:]) == ("Hello", [SINGLE[b"\xf0"], END])


def test_logprobs_carry_bytes_of_tokens() -> None:
    hello, world = tokens("Hello")[0], SINGLE[b"\xf0"]
    delta = reply().push(Sampled(hello, -0.5, ((hello, -0.5), (world, -1.0))))
    assert len(delta.logprobs) == 1
    assert (delta.logprobs[0].token_id, delta.logprobs[0].token, delta.logprobs[0].logprob) == (hello, b"Hello", -0.5)
    assert delta.logprobs[0].top == (TopLogprob(hello, -0.5, b"Hello"), TopLogprob(world, -1.0, b"\xf0"))


def test_nothing_follows_the_end() -> None:
    subject = reply()
    subject.push(Sampled(END))
    with pytest.raises(AssertionError):
        subject.push(Sampled(END))


def first_stop(text: str, stops: list[str]) -> str:
    for end in range(1, len(text) + 1):
        ends = [stop for stop in stops if text[:end].endswith(stop)]
        if ends:
            return text[: end - max(map(len, ends))]
    return text


@st.composite
def tokenized(draw: st.DrawFn) -> tuple[str, list[int]]:
    """A text, cut into tokens at any bytes."""
    text = draw(st.text(alphabet="ab\n é🙂", max_size=20))
    raw, sampled = text.encode(), list[int]()
    while raw:
        choices = [size for size in (1, 2, 3) if raw[:size] in BY_BYTES]
        size = draw(st.sampled_from(choices))
        sampled.append(BY_BYTES[raw[:size]])
        raw = raw[size:]
    return text, sampled


BY_BYTES = {TEXT.token_bytes(token): token for token in range(599, 4, -1)}


@given(tokenized(), st.lists(st.text(alphabet="ab\n é🙂", min_size=1, max_size=4), max_size=4))
def test_the_text_ends_at_the_first_stop_however_it_is_cut_into_tokens(
    said: tuple[str, list[int]], stops: list[str]
) -> None:
    text, sampled = said
    heard = run(reply(stop=tuple(stops)), sampled)
    assert heard.text == first_stop(text, stops)
    assert (heard.finished is not None) == (heard.text != text or any(text.endswith(stop) for stop in stops))


@given(tokenized(), st.lists(st.text(alphabet="ab", min_size=1, max_size=4), max_size=3), st.integers(1, 10))
def test_every_token_is_reported_once_in_order_with_its_logprobs(
    said: tuple[str, list[int]], stops: list[str], longest: int
) -> None:
    subject = reply(stop=tuple(stops), max_new_tokens=longest)
    pushed, ids, logprobs = [], list[int](), list[tuple[int, float]]()
    for index, token in enumerate(said[1]):
        if subject.finished:
            break
        delta = subject.push(Sampled(token, -float(index)))
        pushed.append(token)
        ids += delta.token_ids
        logprobs += [(entry.token_id, entry.logprob) for entry in delta.logprobs]
        assert len(delta.logprobs) == len(delta.token_ids) == 1
    rest = subject.flush()
    assert rest is None or (rest.text and not rest.token_ids and not rest.logprobs)
    assert ids == pushed
    assert logprobs == [(token, -float(index)) for index, token in enumerate(pushed)]
    assert len(pushed) <= longest


def test_a_reply_ends_where_its_form_does_and_not_at_stop_tokens() -> None:
    form = ResponseFormat(regex="a+")
    first, second = tokens("ab")[0], SINGLE[b"b"]
    subject = reply(response_format=form, stop_token_ids=(first,), max_new_tokens=2)
    assert subject.push(Sampled(first)).text == "a"
    assert subject.push(Sampled(second), is_last=True).text == "b"
    assert subject.finished == Finish(FinishReason.STOP)  # and not LENGTH: it is whole


CALL = '{"name": "now", "arguments": {}}'


@pytest.fixture
def calling() -> Callable[[str], tuple[Said, Reply]]:
    """What comes of a reply with calls in Llama's form."""
    calls = FORMATS["llama"].model_copy(update={"several": True})

    def run_calls(text: str) -> tuple[Said, Reply]:
        subject = reply()
        subject._parts = ReplyParts(PartForms(calls, ("now",)), TEXT.detokenizer(), str)
        return run(subject, [*tokens(text), END]), subject

    return run_calls


@pytest.mark.parametrize("between", [", ", "\n", "; "])
def test_a_reply_ends_behind_its_last_call(
    calling: Callable[[str], tuple[Said, Reply]], between: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reply_parts, "MOST_CALLS", 3)
    said, subject = calling(between.join([CALL] * 5))
    assert said.finished == Finish(FinishReason.TOOL_CALLS)
    assert [(call.name, call.incomplete) for call in subject.calls] == [("now", False)] * 3
    assert (said.text, len(said.token_ids)) == ("", len(tokens(between.join([CALL] * 3))))


def test_calls_that_are_too_long_end_the_reply_and_the_last_is_cut(
    calling: Callable[[str], tuple[Said, Reply]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reply_parts, "MOST_CALL_CHARACTERS", len(CALL) + 26)
    said, subject = calling(f"{CALL}, {CALL[:-2]}{{}}}}")
    assert said.finished == Finish(FinishReason.LENGTH)
    assert [call.incomplete for call in subject.calls] == [False, True]
    assert said.text == ""
