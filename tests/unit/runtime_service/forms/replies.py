"""Replies without a model: at every place one of the tokens that fit, by chance."""

from __future__ import annotations

import asyncio
import random
from functools import cache

from common.window import Geometry
from runtime_service.decoding.text import Text
from runtime_service.domain.response_format import ResponseFormat
from runtime_service.forms.engine_forms import EngineForms
from runtime_service.forms.form import form_of
from runtime_service.forms.masks import Masks, Wanted
from runtime_service.forms.matcher import Matcher
from tests.samples.vocabularies import byte_level, sentencepiece, unigram
from tests.samples.whole_manifests import make_manifest

GEOMETRY = Geometry(sinks=2, window=40, chunk=12, slots=3)
MASKS = Masks()
PADDED = 1024
TOKENIZERS = {"byte_level": (byte_level, (1, 4)), "sentencepiece": (sentencepiece, (2,)), "unigram": (unigram, (2,))}


@cache
def text_of(tokenizer: str) -> Text:
    make, ends = TOKENIZERS[tokenizer]
    return Text(make(), make_manifest(GEOMETRY, vocabulary=PADDED, end_token_ids=ends))


@cache
def forms_of(tokenizer: str, *, ends: bool = True) -> EngineForms:
    manifest = make_manifest(GEOMETRY, vocabulary=PADDED, end_token_ids=TOKENIZERS[tokenizer][1] if ends else ())
    return EngineForms(text_of(tokenizer).vocabulary, manifest)


def matcher(asked: ResponseFormat, tokenizer: str = "byte_level", *, ends: bool = True) -> Matcher:
    forms = forms_of(tokenizer, ends=ends)
    forms._tokenizer = None  # of the event loop before
    return asyncio.run(forms.matcher(form_of(asked)))


def fitting(asked: Matcher) -> list[int]:
    return [int(token) for token in MASKS.begin(Wanted(asked, ())).take()[0]]


def reply(asked: ResponseFormat, tokenizer: str, seed: int, *, ends: bool = True, most: int = 3000) -> str | None:
    """Its text; None where it did not come to an end. Ends are taken wherever they fit, closing tokens mostly."""
    chance, own, text = random.Random(seed), matcher(asked, tokenizer, ends=ends), ""
    decode, end_ids = text_of(tokenizer).detokenizer(), set(TOKENIZERS[tokenizer][1]) if ends else set()
    for _ in range(most):
        some = fitting(own)
        assert some
        closing = [token for token in some if token in end_ids or text_of(tokenizer).token_bytes(token)[:1] in b'"}]']
        token = chance.choice(closing if closing and chance.random() < 0.4 else some)
        own.accept(token)
        assert own.error is None
        text += "" if token in end_ids else decode.push(token)
        if token in end_ids or own.is_over:
            return text
    return None
