import json
from pathlib import Path

import pytest

from common.spec.manifest import TurnTemplate
from common.text.vocabulary import Vocabulary
from tests.samples import vocabularies
from tests.samples.chat_templates import CHATML, Checkpoint, byte_level, conversation, ids, sentencepiece, wrapped


def test_none_feeds_text_as_it_is(tmp_path: Path) -> None:
    derived = byte_level(tmp_path, CHATML).derive("none")
    assert derived.model
    assert derived.model.template == TurnTemplate(
        opening=(),
        system_before=(),
        user_before=(),
        user_after=(),
        assistant_before=(),
        assistant_after=(),
        no_tools="its text is fed as it is, without a chat template",
    )
    assert derived.warnings == ()


def test_raw_text_gets_no_space_that_nobody_wrote(tmp_path: Path) -> None:
    checkpoint = sentencepiece(tmp_path, None)
    derived = checkpoint.derive("none")
    assert wrapped(derived, conversation(" Hello")) == list(ids(checkpoint, "Hello"))
    assert derived.tokenizer_json
    shipped = Vocabulary(json.loads(derived.tokenizer_json))
    assert b"".join(map(shipped.token_bytes, wrapped(derived, conversation("Hello")))) == b"Hello"
    assert shipped.leading_spaces == 0


@pytest.mark.parametrize(("adds", "opening"), [(True, (1,)), (False, ()), (None, ())])
def test_raw_text_begins_as_the_tokenizer_begins_it(
    tmp_path: Path, adds: bool | None, opening: tuple[int, ...]
) -> None:
    parts = sentencepiece(tmp_path, None, add_bos_token=adds).parts("none")
    assert (parts.opening, parts.system_before) == (opening, opening)


def test_raw_text_begins_as_the_post_processor_begins_it(tmp_path: Path) -> None:
    data = json.loads(vocabularies.sentencepiece())
    begin, end = ({"SpecialToken": {"id": name, "type_id": 0}} for name in ("<s>", "</s>"))
    named = {name: {"id": name, "ids": [at], "tokens": [name]} for at, name in ((1, "<s>"), (2, "</s>"))}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    data["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [begin, text, end],
        "pair": [text, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": named,
    }
    assert Checkpoint(tmp_path, json.dumps(data).encode()).parts("none").opening == (1,)


def test_no_chat_template_is_raw_text_with_a_warning(tmp_path: Path) -> None:
    derived = byte_level(tmp_path, None).derive()
    assert derived.model
    assert derived.model.template.user_before == ()
    assert any("no chat template" in warning for warning in derived.warnings)
    assert derived.model.warnings == derived.warnings
