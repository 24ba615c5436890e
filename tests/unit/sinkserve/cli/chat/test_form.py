"""Forms of replies as a person gives them: by options, and by /form in a chat."""

from __future__ import annotations

from pathlib import Path

import pytest

from sinkserve.cli.chat.form import describe_form, read_form, with_form
from sinkserve.cli.terminal.failures import Failure
from sinkserve.client import GenerationOptions, ResponseFormat

FREE = GenerationOptions(seed=3)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a file"
    path.write_text("{}")
    return path


@pytest.mark.parametrize(
    ("argument", "form", "said"),
    [
        ("regex a b+", {"regex": "a b+"}, "a regular expression"),
        (" choice yes|no way ", {"choice": ["yes", "no way"]}, "one of 2 texts"),
        ("json-schema FILE", {"json_schema": "{}"}, "JSON by a schema"),
        ("grammar FILE", {"grammar": "{}"}, "a grammar"),
    ],
)
def test_a_form_is_set_and_taken_back(argument: str, form: ResponseFormat, said: str, file: Path) -> None:
    argument = argument.replace("FILE", str(file))
    options = with_form(FREE, argument)
    assert options == {"seed": 3, "response_format": form}
    assert describe_form(options) == said
    assert read_form(None, argument) == form
    assert with_form(options, " ") == FREE
    assert describe_form(FREE) == "any text"


@pytest.mark.parametrize("argument", ["yaml a", "regex", "regex "])
def test_a_form_that_is_none_is_refused_with_what_would_be_right(argument: str) -> None:
    with pytest.raises(
        ValueError, match=r"/form takes json_schema FILE, regex TEXT, choice TEXT\|TEXT or grammar FILE"
    ):
        with_form(FREE, argument)
    with pytest.raises(Failure, match="--form takes json_schema FILE"):
        read_form(None, argument)


def test_a_schema_is_read_from_its_file(file: Path) -> None:
    assert read_form(file, None) == {"json_schema": "{}"}
    assert read_form(None, None) is None
    with pytest.raises(Failure, match="not both"):
        read_form(file, "regex a")
    with pytest.raises(Failure, match="nowhere: No such file or directory"):
        read_form(Path("nowhere"), None)
    file.write_bytes(b"\xff")
    with pytest.raises(ValueError, match="is no UTF-8 text"):
        with_form(FREE, f"grammar {file}")
