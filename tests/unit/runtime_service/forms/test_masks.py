"""Masks behind the tokens of a draft are those of a reply that has come so far."""

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
    masks = Masks()
    found = [masks.begin(Wanted(drafted, draft)), masks.begin(Wanted(plain, ()))]
    assert [row.tolist() for row in found[1].take()] == [fitting(plain)]
    alone = matcher(ASKED[0])
    for row, token in zip(found[0].take(), (*draft, None), strict=True):
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
    masks.wait((), 1.0)
    assert masks.steps == 0
    mask = masks.begin(Wanted(matcher(ASKED[0]), ()))
    masks.wait([mask], 60.0)
    mask.take()
    assert (masks.steps, masks.late) == (1, 0)
    assert masks.seconds > 0
