import json
import os
from pathlib import Path
from typing import Any

import pytest

from builder_service.chat.derive import derive_text
from builder_service.checkpoint.folder import FolderCheckpoint
from common.errors import InvalidArgument, Reason
from tests.samples import vocabularies
from tests.samples.chat_templates import (
    CHATML,
    CONTROL,
    LLAMA_3,
    NOW,
    VOCABULARY,
    Checkpoint,
    byte_level,
    conversation,
    ids,
    wrapped,
)


def test_no_tokenizer_means_token_ids_only(tmp_path: Path) -> None:
    derived = derive_text(FolderCheckpoint(tmp_path), "", VOCABULARY, NOW)
    assert (derived.model, derived.tokenizer_json) == (None, None)
    assert "no tokenizer" in derived.warnings[0]


def test_the_tokenizer_is_shipped_as_it_was_read(tmp_path: Path) -> None:
    assert byte_level(tmp_path, CHATML).derive().tokenizer_json == vocabularies.byte_level(CONTROL)


def test_truncation_that_was_left_in_the_file_is_not_for_conversations(tmp_path: Path) -> None:
    truncation = {"max_length": 3, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    data = json.loads(vocabularies.byte_level(CONTROL)) | {"truncation": truncation}
    derived = Checkpoint(tmp_path, json.dumps(data).encode(), chat_template=CHATML).derive()
    assert derived.model
    assert derived.tokenizer_json
    assert json.loads(derived.tokenizer_json)["truncation"] is None


def test_tokens_beyond_the_models_vocabulary_take_the_text_away(tmp_path: Path) -> None:
    checkpoint = byte_level(tmp_path, CHATML)
    assert checkpoint.derive(vocabulary=300).model is None
    assert "only 300 tokens" in checkpoint.derive(vocabulary=300).warnings[0]


def test_special_tokens_named_beside_the_tokenizer_are_special(tmp_path: Path) -> None:
    """Transformers makes them so, and so a user must not be able to write them."""
    data = json.loads(vocabularies.byte_level(CONTROL))
    data["added_tokens"] = [token for token in data["added_tokens"] if token["content"] != "<|im_end|>"]
    checkpoint = Checkpoint(
        tmp_path, json.dumps(data).encode(), eos_token={"content": "<|im_end|>"}, chat_template=CHATML
    )
    derived = checkpoint.derive()
    assert derived.model
    assert derived.tokenizer_json
    shipped = {token["content"]: token for token in json.loads(derived.tokenizer_json)["added_tokens"]}
    assert shipped["<|im_end|>"]["special"]
    assert derived.model.template.assistant_after[0] == shipped["<|im_end|>"]["id"]


def test_the_templates_file_goes_before_the_config(tmp_path: Path) -> None:
    checkpoint = byte_level(tmp_path, CHATML)
    (tmp_path / "chat_template.jinja").write_text(LLAMA_3)
    assert checkpoint.parts().user_before == ids(checkpoint, "<|start|>user<|stop|>\n\n")


def test_of_named_templates_the_default_is_used(tmp_path: Path) -> None:
    named = [{"name": "tool_use", "template": LLAMA_3}, {"name": "default", "template": CHATML}]
    checkpoint = byte_level(tmp_path, None, chat_template=named)
    assert checkpoint.parts().user_before == ids(checkpoint, "<|im_start|>user\n")


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", ["{", "[]", "{}", '"x"'])
def test_broken_files_are_refused_by_name(tmp_path: Path, name: str, content: str) -> None:
    checkpoint = byte_level(tmp_path, CHATML)
    (tmp_path / name).write_text(content)
    if (name, content) == ("tokenizer_config.json", "{}"):
        assert checkpoint.derive().warnings
        return
    with pytest.raises(InvalidArgument, match=name) as caught:
        checkpoint.derive()
    assert caught.value.reason == Reason.CHECKPOINT_INVALID


def test_a_tokenizer_that_cannot_be_decoded_is_not_used(tmp_path: Path) -> None:
    data = json.loads(vocabularies.byte_level(CONTROL)) | {"decoder": None}
    derived = Checkpoint(tmp_path, json.dumps(data).encode(), chat_template=CHATML).derive()
    assert (derived.model, derived.tokenizer_json) == (None, None)
    assert "decoder" in derived.warnings[0]


def test_a_tokenizer_without_tokenizer_json_is_converted(tmp_path: Path) -> None:
    model = json.loads(vocabularies.byte_level(CONTROL))["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]))
    (tmp_path / "merges.txt").write_text("\n".join(" ".join(merge) for merge in model["merges"]))
    config: dict[str, Any] = {"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|im_end|>", "bos_token": "<|begin|>"}
    config |= {"unk_token": "<|endoftext|>", "chat_template": CHATML, "additional_special_tokens": ["<|im_start|>"]}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    derived = derive_text(FolderCheckpoint(tmp_path), "", VOCABULARY, NOW)
    assert derived.model, derived.warnings
    assert derived.model.template.user_before[0] == model["vocab"]["<|im_start|>"]


@pytest.mark.parametrize("content", [5, {"x": {"content": "a"}}, {"5": 5}, {"5": {}}, {"5": {"content": [1]}}])
def test_tokens_that_are_declared_wrongly_are_refused(tmp_path: Path, content: object) -> None:
    checkpoint = byte_level(tmp_path, CHATML)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": content}))
    with pytest.raises(InvalidArgument, match=r"tokenizer_config\.json has in added_tokens_decoder") as caught:
        checkpoint.derive()
    assert caught.value.violations[0].field == "spec.source.uri"


def test_a_template_that_is_not_utf_8_is_refused_by_name(tmp_path: Path) -> None:
    checkpoint = byte_level(tmp_path, CHATML)
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidArgument, match=r"chat_template\.jinja is not UTF-8"):
        checkpoint.derive()


@pytest.mark.parametrize("templates", [[5], [{"name": 5}], [{"name": ["default"]}]])
def test_a_list_of_templates_without_a_default_is_no_template(tmp_path: Path, templates: list[object]) -> None:
    derived = byte_level(tmp_path, None, chat_template=templates).derive()
    assert "no chat template" in derived.warnings[0]


def test_a_pipe_among_the_files_that_are_converted_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text("{}")
    os.mkfifo(tmp_path / "merges.txt")
    with pytest.raises(InvalidArgument, match=r"merges\.txt is not a regular file"):
        derive_text(FolderCheckpoint(tmp_path), "", VOCABULARY, NOW)


@pytest.mark.parametrize(
    "named",
    [
        {"extra_special_tokens": ["<|im_end|>"]},
        {"extra_special_tokens": {"turn_token": "<|im_end|>"}},
        {"extra_special_tokens": [{"content": "<|im_end|>"}]},
        {"model_specific_special_tokens": {"turn_token": {"content": "<|im_end|>"}}},
        {"additional_special_tokens": ["<|im_end|>"]},
    ],
)
def test_special_tokens_as_transformers_4_and_5_name_them_are_never_written_by_a_user(
    tmp_path: Path, named: dict[str, Any]
) -> None:
    data = json.loads(vocabularies.byte_level(CONTROL))
    data["added_tokens"] = [token | {"special": False} for token in data["added_tokens"]]
    checkpoint = byte_level(tmp_path, CHATML, eos_token="<|endoftext|>", **named)
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    derived = checkpoint.derive("none")
    (end,) = ids(checkpoint, "<|im_end|>")
    assert end not in wrapped(derived, conversation("a <|im_end|> b"))


def test_one_added_token_beyond_the_vocabulary_hides_that_token_alone(tmp_path: Path) -> None:
    data = json.loads(vocabularies.byte_level(CONTROL))
    largest = max([*data["model"]["vocab"].values(), *(token["id"] for token in data["added_tokens"])])
    beyond = data["added_tokens"][0] | {"id": largest + 1, "content": "<image>", "special": False}
    checkpoint = byte_level(tmp_path, CHATML)
    (tmp_path / "tokenizer.json").write_text(json.dumps(data | {"added_tokens": [*data["added_tokens"], beyond]}))
    derived = checkpoint.derive(vocabulary=largest + 1)
    assert any("'<image>'" in warning for warning in derived.warnings)
    said = wrapped(derived, conversation("an <image> here"))
    assert max(said) <= largest
    assert len(said) > len(wrapped(derived, conversation("an  here"))) + 1


@pytest.mark.parametrize("chat_template", ["rag", ""])
def test_named_templates_without_a_default_are_named_and_can_be_chosen(tmp_path: Path, chat_template: str) -> None:
    checkpoint = byte_level(tmp_path, None, chat_template=[{"name": "rag", "template": CHATML}])
    derived = checkpoint.derive(chat_template)
    if chat_template:
        assert checkpoint.parts(chat_template).user_before == ids(checkpoint, "<|im_start|>user\n")
    else:
        assert derived.model is None
        assert "chat templates named rag, and none named default" in derived.warnings[0]


def test_a_tokenizer_in_a_format_that_is_not_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "qwen.tiktoken").write_text("")
    derived = derive_text(FolderCheckpoint(tmp_path), "", VOCABULARY, NOW)
    assert "no tokenizer but qwen.tiktoken" in derived.warnings[0]
