"""How figures, times and tables look."""

from __future__ import annotations

import inspect
import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from rich.markup import escape
from rich.text import Text

from common.controls import CONTROLS
from sinkserve.builder.v1 import builder_service_pb2 as pb
from sinkserve.cli.terminal import console


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 KB"),
        (123_456, "123 KB"),
        (16_200_000, "16.2 MB"),
        (2_500_000_000, "2.5 GB"),
    ],
)
def test_sizes_read_well(count: int, text: str) -> None:
    assert console.size(count) == text


@pytest.mark.parametrize(("count", "text"), [(12, "12"), (7_900, "7.9K"), (7_900_000, "7.9M"), (1_100_048_384, "1.1B")])
def test_parameters_read_well(count: int, text: str) -> None:
    assert console.parameters(count) == text


@pytest.mark.parametrize(
    ("age", "text"),
    [(0, "just now"), (30, "30 s ago"), (90, "1 min ago"), (7200, "2 h ago"), (200_000, "2 d ago")],
)
def test_times_are_told_by_their_age(age: int, text: str) -> None:
    time = Timestamp()
    time.FromDatetime(datetime.now(UTC) - timedelta(seconds=age, milliseconds=1))
    assert console.ago(time) == text
    assert console.ago(Timestamp()) == ""
    assert console.local_time(Timestamp()) == ""


@pytest.mark.parametrize(("seconds", "text"), [(0.04, "0.0 s"), (3.21, "3.2 s"), (61, "61 s"), (600, "10 min")])
def test_durations_read_well(seconds: float, text: str) -> None:
    assert console.duration(seconds) == text


def test_a_table_in_a_pipe_has_whole_lines_without_trailing_space(capsys: pytest.CaptureFixture[str]) -> None:
    long = "x" * 300
    console.print_table(("NAME", "COUNT#"), [(long, "1"), ("b", "200")], "none")
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == f"{long}       1"
    assert [line.split() for line in lines] == [["NAME", "COUNT"], [long, "1"], ["b", "200"]]
    assert all(line == line.rstrip() for line in lines)


def test_a_document_has_proto_names_and_unset_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_json(builds=[pb.Build(name="builds/a", state=pb.Build.STATE_QUEUED)])
    (build,) = json.loads(capsys.readouterr().out)["builds"]
    assert (build["name"], build["state"], build["progress"]) == ("builds/a", "STATE_QUEUED", 0.0)


def test_facts_that_are_empty_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_facts((("name", "a"), ("error", "")))
    assert capsys.readouterr().out == "name   a\n"


HOSTILE = "a\x1b[2Jb\x07\x7f\x9b31m\u202ec\u2066d\u200fe"
SAFE = "a␛[2Jb␇␡�31mcde"


@pytest.mark.parametrize("is_terminal", [True, False])
def test_what_others_say_does_not_command_the_terminal(
    is_terminal: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    printer = console.HarmlessConsole(highlight=False, soft_wrap=True, force_terminal=is_terminal, width=200)
    monkeypatch.setattr(console, "out", printer)
    console.print_facts((("name", f"[bold]{escape(HOSTILE)}[/]"),))
    console.print_table(("NAME",), ((escape(HOSTILE),),), "none")
    printer.print(HOSTILE, markup=False)
    printer.print(Text(HOSTILE, "red"))
    said = capsys.readouterr().out
    assert "a␛[2Jb" in said
    assert "�31mcde" in said
    colours = re.compile(r"\x1b\[[\d;]*m")
    assert (colours.search(said) is not None) == is_terminal, "our own styles are left"
    assert not set(colours.sub("", said)) & set(map(chr, CONTROLS))


def test_a_document_keeps_what_others_say_and_is_harmless(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_json(build=pb.Build(name=HOSTILE + "é"))
    said = capsys.readouterr().out
    assert json.loads(said)["build"]["name"] == HOSTILE + "é"
    assert not set(said) & set(map(chr, CONTROLS))
    assert "é" in said


def test_a_reply_is_as_it_is_in_a_file_and_harmless_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    console.write(HOSTILE)
    monkeypatch.setattr(console, "out", console.HarmlessConsole(force_terminal=True))
    console.write(HOSTILE)
    assert capsys.readouterr().out == HOSTILE + SAFE


def test_commands_print_through_the_console_alone() -> None:
    """All but the program that starts the services, which reads their addresses."""
    folder = Path(inspect.getfile(console)).parents[1]
    rest = [path for path in folder.rglob("*.py") if path.name not in {"console.py", "serve.py"}]
    ways = re.compile(r"(?<!def )(?<![.\w])print\(|sys\.std(out|err)|Console\(|\.file\.write")
    assert len(rest) > 20
    assert [path.name for path in rest if ways.search(path.read_text())] == []
