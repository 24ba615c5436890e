"""How figures, times and tables look."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

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


def test_what_a_model_says_does_not_command_the_terminal() -> None:
    assert console.harmless("a\x1b[2Jb\x7f\tc\nd") == "a␛[2Jb␡\tc\nd"
