"""Masks of a whole step at once are those of each reply, one token at a time."""

from __future__ import annotations

from runtime_service.domain.response_format import ResponseFormat
from runtime_service.forms.masks import Masks, Wanted
from tests.unit.runtime_service.forms.replies import fitting, matcher, text_of

ASKED = ResponseFormat(regex="[a-c]{2,9}!"), ResponseFormat(choice=("abab!", "cc"))


def ids(text: str) -> tuple[int, ...]:
    bytes_of = text_of("byte_level").token_bytes
    single = {bytes_of(token): token for token in range(1024) if len(bytes_of(token)) == 1}
    return tuple(single[bytes([byte])] for byte in text.encode())


def test_drafts_have_a_mask_behind_each_token() -> None:
    drafted, plain = matcher(ASKED[0]), matcher(ASKED[1])
    draft = ids("abab")
    found = Masks().begin({2: Wanted(drafted, draft), 5: Wanted(plain, ())}).wait()
    assert [row.tolist() for row in found[5]] == [fitting(plain)]
    alone = matcher(ASKED[0])
    for row, token in zip(found[2], (*draft, None), strict=True):
        assert row.tolist() == fitting(alone)
        if token is not None:
            alone.accept(token)


def test_a_draft_is_cut_where_it_does_not_fit_and_before_an_end() -> None:
    own = matcher(ASKED[1])
    assert own.fitting(ids("ab!")) == 2
    assert own.fitting((*ids("cc"), 1, 1)) == 2
    assert own.fitting((1,)) == 0
    assert fitting(own) == fitting(matcher(ASKED[1]))


def test_what_it_took_is_counted() -> None:
    masks = Masks()
    masks.begin({}).wait()
    assert masks.steps == 0
    masks.begin({0: Wanted(matcher(ASKED[0]), ())}).wait()
    assert masks.steps == 1
    assert masks.seconds > 0
