import pytest

from sinkserve.cli.chat.template import read_variables
from sinkserve.cli.terminal.failures import Failure


def test_values_are_what_they_look_like() -> None:
    given = ["enable_thinking=false", "effort = low", "budget=200", "share=0.5", "quoted=a=b", "list=[1]", "empty="]
    assert read_variables(given) == {
        "enable_thinking": False,
        "effort": "low",
        "budget": 200,
        "share": 0.5,
        "quoted": "a=b",
        "list": "[1]",
        "empty": "",
    }
    for wrong in ("enable_thinking", "=x"):
        with pytest.raises(Failure, match="NAME=VALUE"):
            read_variables([wrong])
