import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from common.errors import InvalidArgument, Reason
from common.spec.manifest import Manifest, TurnForm, TurnTemplate
from common.text.content import ContentEncoder
from common.window import Geometry
from runtime_service.decoding.text import Text
from runtime_service.domain.turn import Message
from tests.samples import vocabularies
from tests.samples.vocabularies import ASSISTANT, BEGIN, END, SYSTEM, USER
from tests.samples.whole_manifests import make_manifest

TOKENIZER = Tokenizer.from_str(vocabularies.byte_level().decode())
TEMPLATE = TurnTemplate(
    opening=(BEGIN,),
    system_before=(BEGIN, SYSTEM),
    system_after=(END,),
    user_before=(USER,),
    user_after=(END,),
    assistant_before=(ASSISTANT,),
    assistant_after=(END, *TOKENIZER.encode("\n").ids),
)


def manifest(template: TurnTemplate | None = TEMPLATE) -> Manifest:
    return make_manifest(Geometry(0, 8, 4, 1), template=template, end_token_ids=(END,))


def with_template(**changes: object) -> Text:
    return Text(vocabularies.byte_level(), manifest(TEMPLATE.model_copy(update=changes)))


def encoded(text: str) -> tuple[int, ...]:
    return tuple(TOKENIZER.encode(text).ids)


TEXT = with_template()
CONTENT = st.lists(st.sampled_from([*vocabularies.CONTROL, " ", "\n"]) | st.text(max_size=5)).map("".join)


def test_a_conversation_opens_without_a_system_prompt() -> None:
    assert TEXT.opening("") == (BEGIN,)


def test_a_conversation_opens_with_a_system_prompt() -> None:
    assert TEXT.opening("Be kind.") == (BEGIN, SYSTEM, *encoded("Be kind."), END)


def test_a_template_without_a_place_for_a_system_prompt_refuses_one() -> None:
    text = with_template(system_before=None)
    assert text.opening("") == (BEGIN,)
    with pytest.raises(InvalidArgument, match="demo@1") as caught:
        text.opening("Be kind.")
    assert caught.value.violations[0].field == "open.new_session.system_prompt"


def test_what_a_user_says_is_wrapped() -> None:
    assert TEXT.user("Hello") == (USER, *encoded("Hello"), END)
    assert TEXT.user("Hello") == TEXT.messages([Message("user", "Hello")])


def test_messages_are_rendered_in_order_and_ready_for_a_reply() -> None:
    said = TEXT.messages([Message("user", "Hello"), Message("assistant", "there"), Message("user", "!")])
    newline = encoded("\n")
    assert said == (
        *(USER, *encoded("Hello"), END),
        *(ASSISTANT, *encoded("there"), END, *newline),
        *(USER, *encoded("!"), END),
    )
    assert TEXT.assistant_before == (ASSISTANT,)


@pytest.mark.parametrize("role", ["system", "", "User"])
def test_other_roles_are_refused_by_name(role: str) -> None:
    with pytest.raises(InvalidArgument, match=repr(role)) as caught:
        TEXT.messages([Message("user", "Hello"), Message(role, "x")])
    assert caught.value.reason == Reason.INVALID_FIELD
    assert caught.value.violations[0].field == "turn.messages.messages[1].role"


FORMS = {
    TurnForm.USER_TWICE: ("uu", "user in a row"),
    TurnForm.ASSISTANT_FIRST: ("au", "begin with a message of the assistant"),
    TurnForm.ASSISTANT_TWICE: ("uaau", "assistant in a row"),
    TurnForm.REPLY_TO_ASSISTANT: ("ua", "replies to a message of the assistant"),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_form_that_was_not_proven_is_refused_by_name_and_no_other_is(form: TurnForm) -> None:
    text = with_template(unproven=(form,))
    for other, (roles, said) in FORMS.items():
        messages = [Message({"u": "user", "a": "assistant"}[role], "Hello") for role in roles]
        if other is not form:
            assert text.messages(messages) == TEXT.messages(messages)
            continue
        with pytest.raises(InvalidArgument, match=said) as caught:
            text.messages(messages)
        assert caught.value.violations[0].field == "turn.messages.messages"


def test_words_without_a_reply_are_two_messages_of_the_user_in_a_row() -> None:
    text = with_template(unproven=(TurnForm.USER_TWICE,))
    assert text.user("Hello") == TEXT.user("Hello")
    with pytest.raises(InvalidArgument) as caught:
        text.user("Hello", no_reply=True)
    assert caught.value.violations[0].field == "turn.no_reply"
    ended = [Message("user", "Hello"), Message("assistant", "there")]
    assert text.messages(ended, no_reply=True) == TEXT.messages(ended)


def test_the_first_message_begins_as_the_template_begins_it() -> None:
    text = with_template(first_user_before=(BEGIN, USER), system_user_before=())
    said = [Message("user", "Hello"), Message("user", "there")]
    later = (USER, *encoded("there"), END)
    alone, behind = text.opening(), text.opening("Be kind.")
    assert text.begins_otherwise(alone)
    assert text.first(said, alone) == (BEGIN, USER, *encoded("Hello"), END, *later)
    assert text.first(said, behind) == (*encoded("Hello"), END, *later)
    assert text.messages(said) == TEXT.messages(said)
    assert not TEXT.begins_otherwise(alone)


def test_a_reply_that_is_given_has_the_header_of_earlier_ones() -> None:
    text = with_template(earlier_before=(SYSTEM,))
    assert text.messages([Message("assistant", "Hello")])[0] == SYSTEM
    assert text.assistant_before == (ASSISTANT,)


def test_special_tokens_are_found_by_their_text() -> None:
    assert (TEXT.special_token("<|end|>"), TEXT.special_token("Hello")) == (END, None)


def test_no_messages_are_refused() -> None:
    with pytest.raises(InvalidArgument) as caught:
        TEXT.messages([])
    assert caught.value.violations[0].field == "turn.messages.messages"


@given(CONTENT)
def test_contents_never_hold_control_tokens(content: str) -> None:
    for tokens in (TEXT.user(content), TEXT.opening(content or "x")[1:], TEXT.messages([Message("user", content)])):
        assert {BEGIN, END, SYSTEM, USER, ASSISTANT}.isdisjoint(tokens[1:-1])
    inner = TEXT.user(content)[1:-1]
    assert b"".join(map(TEXT.token_bytes, inner)) == content.encode()


def test_added_tokens_of_a_template_are_control_even_when_not_special() -> None:
    think = TOKENIZER.token_to_id(vocabularies.THINK) or 0
    assert think in TEXT.user("<think>")
    text = with_template(assistant_before=(ASSISTANT, think))
    assert think not in text.user("<think>")


def test_contents_are_stripped_where_the_template_strips_them() -> None:
    assert with_template(strip_content=True).user("  Hello\n") == TEXT.user("Hello")
    assert TEXT.user("  Hello\n") == (USER, *encoded("  Hello\n"), END)


def test_an_end_token_that_was_generated_is_not_doubled() -> None:
    newline = encoded("\n")
    assert TEXT.closing == (END, *newline)
    assert TEXT.closing_after(END) == newline
    assert TEXT.closing_after(None) == TEXT.closing
    assert TEXT.closing_after(encoded("Hello")[-1]) == TEXT.closing


def test_an_ordinary_token_of_the_closing_is_never_taken_for_its_end() -> None:
    assert TEXT.closing_after(encoded("\n")[0]) == TEXT.closing


def test_what_stands_before_the_end_token_goes_with_it() -> None:
    space = encoded(" ")
    text = with_template(assistant_after=(*space, END))
    assert text.closing_after(END) == ()


def test_an_engine_without_a_template_takes_token_ids_only() -> None:
    text = Text(vocabularies.byte_level(), manifest(None))
    assert not text.accepts_text
    assert text.decodes_text
    assert (text.opening(), text.assistant_before, text.closing) == ((), (), ())
    calls: list[Callable[[], object]] = [
        lambda: text.user("x"),
        lambda: text.messages([Message("user", "x")]),
        lambda: text.opening("x"),
    ]
    for call in calls:
        with pytest.raises(InvalidArgument, match="token ids only") as caught:
            call()
        assert caught.value.reason == Reason.TEXT_UNSUPPORTED
        assert caught.value.violations


def test_an_engine_without_a_tokenizer_has_no_text_at_all() -> None:
    text = Text(None, manifest(None))
    assert not text.accepts_text
    assert not text.decodes_text
    assert text.token_bytes(5) == b""
    assert text.detokenizer().push(5) == ""


def test_bytes_of_tokens() -> None:
    assert TEXT.token_bytes(END) == b"<|end|>"
    assert TEXT.token_bytes(encoded(" é")[-1]) in (" é".encode(), "é".encode(), b"\xa9")


def test_a_post_processor_adds_nothing_to_contents() -> None:
    data = json.loads(vocabularies.byte_level())
    begin = {"SpecialToken": {"id": "<|begin|>", "type_id": 0}}
    data["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [begin, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|begin|>": {"id": "<|begin|>", "ids": [0], "tokens": ["<|begin|>"]}},
    }
    text = Text(json.dumps(data).encode(), manifest())
    assert text.user("Hello") == TEXT.user("Hello")


@pytest.mark.parametrize("make", [vocabularies.byte_level, vocabularies.sentencepiece, vocabularies.unigram])
@given(st.lists(CONTENT | st.sampled_from(["Hello there!", "▁▁▁▁", "<think>", "two plus two"])).map("".join))
def test_a_content_never_has_fewer_tokens_than_it_has_at_least(make: Callable[[], bytes], content: str) -> None:
    encoder = ContentEncoder(json.loads(make()), frozenset())
    assert encoder.fewest(content) <= len(encoder.encode(content))
    assert encoder.fewest(content * 1000) * 20 >= len(content.encode()) * 1000


@pytest.mark.parametrize(
    ("part", "step"),
    [
        ("normalizer", {"type": "Strip", "strip_left": True, "strip_right": True}),
        ("normalizer", {"type": "Sequence", "normalizers": [{"type": "NFC"}]}),
        ("normalizer", {"type": "Replace", "pattern": {"Regex": " +"}, "content": " "}),
        ("pre_tokenizer", {"type": "Split", "pattern": {"String": " "}, "behavior": "Removed", "invert": False}),
        ("pre_tokenizer", {"type": "WhitespaceSplit"}),
    ],
)
def test_nothing_is_said_of_a_content_that_a_tokenizer_may_shorten(part: str, step: dict[str, object]) -> None:
    data = json.loads(vocabularies.sentencepiece()) | {part: step}
    assert ContentEncoder(data, frozenset()).fewest("a" * 1000) == 0


def test_a_long_content_is_encoded_like_a_short_one() -> None:
    content = "Grüße aus Köln, <|end|>\n" * 1000
    tokens = TEXT.encode(content)
    assert b"".join(map(TEXT.token_bytes, tokens)) == content.encode()
    assert tokens == TEXT.encode("Grüße aus Köln, <|end|>\n") * 1000
