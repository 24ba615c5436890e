"""The commands by name, and how little is imported before one is known."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest
import typer
from typer.testing import CliRunner

from sinkserve.cli.app import COMMANDS, make_app


@pytest.mark.parametrize("name", COMMANDS)
def test_a_summary_is_the_first_line_of_the_commands_own_help(name: str) -> None:
    entry = COMMANDS[name]
    target = getattr(import_module(f"sinkserve.cli.{entry.module}"), entry.name)
    own = target.info.help if isinstance(target, typer.Typer) else target.__doc__
    assert str(own).partition("\n")[0] == entry.summary


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str) -> None:
    ran = CliRunner().invoke(make_app([name]), [name, "--help"])
    assert ran.exit_code == 0
    assert COMMANDS[name].summary in " ".join(ran.stdout.split())


COMMANDS_THAT_TALK = [
    ("engines list", True),
    ("engines gc", True),
    ("engines load", True),
    ("builds cancel", True),
    ("chat", True),
    ("db show", False),
    ("engines export", False),
]


@pytest.mark.parametrize(("words", "talks"), COMMANDS_THAT_TALK)
def test_whatever_talks_to_a_service_can_be_told_how_to_connect(words: str, talks: bool) -> None:
    for _ in range(2):
        ran = CliRunner().invoke(make_app(words.split()), [*words.split(), "--help"])
        assert ("--token-file" in ran.stdout) == talks


def test_help_lists_all_commands_and_the_exit_codes() -> None:
    ran = CliRunner().invoke(make_app(["--help"]), ["--help"])
    assert ran.exit_code == 0
    assert all(f" {name} " in ran.stdout for name in COMMANDS)
    assert "Exit codes: 0 done" in " ".join(ran.stdout.split())


def test_version_is_the_packages() -> None:
    assert CliRunner().invoke(make_app([]), ["--version"]).stdout.startswith("sinkserve 0.")


def test_help_imports_no_services() -> None:
    code = (
        "import sys; from sinkserve.cli.app import make_app; make_app(['--help'])(['--help'], standalone_mode=False);"
        "print([name for name in ('grpc', 'numpy', 'onnx', 'sqlalchemy', 'pydantic') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.endswith(
        "[]\n"
    )


def test_a_command_whose_libraries_are_not_installed_says_what_installs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "builder_service.pipeline.estimate", None)
    monkeypatch.delitem(sys.modules, "sinkserve.cli.build.spec", raising=False)
    with pytest.raises(SystemExit, match=r"pip install 'sinkserve\[serve\]'"):
        make_app(["spec"])
