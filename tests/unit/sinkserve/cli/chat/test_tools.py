import json
from pathlib import Path

import pytest

from sinkserve.cli.chat.tools import read_tools
from sinkserve.cli.terminal.failures import Failure

NOW = {"name": "now", "description": "The time.", "parameters": {"type": "object"}}


def test_tools_are_read_as_they_are_and_as_openai_has_them(tmp_path: Path) -> None:
    path = tmp_path / "tools.json"
    path.write_text(json.dumps([NOW, {"type": "function", "function": {"name": "bare"}}]))
    assert read_tools(path) == [NOW, {"name": "bare", "description": "", "parameters": {}}]
    assert read_tools(None) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot be read"),
        ("[", "is no JSON"),
        ("{}", "is no list"),
        ('[{"name": 1}]', "entry 0 of .* has no name"),
        ('["now"]', "entry 0 of .* has no name"),
        ('[{"name": "now", "parameters": "{}"}]', "parameters a JSON schema"),
    ],
)
def test_what_is_no_list_of_tools_is_said(tmp_path: Path, text: str | None, said: str) -> None:
    path = tmp_path / "tools.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(Failure, match=said):
        read_tools(path)
