"""The command line with real services: from a checkpoint folder to a conversation at a terminal."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import psutil
import pytest
from typer.testing import CliRunner, Result

from sinkserve.cli.app import make_app
from sinkserve.cli.services.embedded import embedded_services
from tests.nightly import LONG, one_in
from tests.samples.checkpoints import write_checkpoint

CLI = (sys.executable, "-m", "sinkserve.cli")
PROMPT = "\x1b[1;36myou\x1b[0m "
AT_A_TERMINAL = (sys.executable, "-c", "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]) >> 8)")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds a checkpoint, its spec and the home of the services."""
    folder = tmp_path_factory.mktemp("real")
    write_checkpoint(folder / "tiny")
    spec = "name: tiny\nsource: {uri: ./tiny}\ncache: {window_tokens: 40, chunk_tokens: 8, max_slots: 2}\n"
    (folder / "spec.yaml").write_text(spec)
    return folder


@pytest.fixture(scope="module")
def services(folder: Path) -> Iterator[Path]:
    """The folder, with services running and an engine `tiny` built."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SINKSERVE_HOME", str(folder / "home"))
        patch.setenv("TERM", "xterm")
        with embedded_services(folder) as addresses:
            patch.setenv("SINKSERVE_CLIENT_BUILDER", addresses.builder)
            patch.setenv("SINKSERVE_CLIENT_RUNTIME", addresses.runtime)
            patch.setenv("SINKSERVE_CLIENT_BUILDER_ADMIN", addresses.builder_admin)
            patch.setenv("SINKSERVE_CLIENT_RUNTIME_ADMIN", addresses.runtime_admin)
            built = sinkserve("build", str(folder / "spec.yaml"))
            assert (built.exit_code, built.stdout) == (0, "tiny@1\n"), built.stderr
            yield folder


def sinkserve(*args: str, stdin: str = "") -> Result:
    return CliRunner().invoke(make_app(args), args, input=stdin)


def read_until(stream: IO[bytes], text: str) -> str:
    """What comes up to and with `text`; a test that waits in vain runs into its timeout."""
    seen = b""
    while text.encode() not in seen:
        piece = os.read(stream.fileno(), 4096)
        assert piece, seen.decode(errors="replace")
        seen += piece
    return seen.decode(errors="replace")  # a piece may end inside a character


def test_a_conversation_goes_far_past_its_window_and_can_be_read_again(services: Path) -> None:
    lines = "".join(f"line number {number}\n" for number in range(12))
    ran = sinkserve("chat", "tiny", "--keep", "--max-new-tokens", "8", "--temperature", "0", stdin=lines)
    assert (ran.exit_code, ran.stderr) == (0, "")
    (session, *_) = json.loads(sinkserve("sessions", "list", "--json").stdout)["sessions"]
    assert int(session["position"]) > 3 * 40
    assert session["turns"] == 12
    shown = sinkserve("sessions", "show", session["name"])
    assert shown.stdout.count("user line number") == 12
    assert sinkserve("sessions", "delete", session["name"]).exit_code == 0


def test_the_same_seed_says_the_same(services: Path) -> None:
    said = {
        sinkserve("chat", "tiny", "-p", "hello", "--seed", "5", "--temperature", "2", "--max-new-tokens", "9").stdout
        for _ in range(2)
    }
    assert len(said) == 1


def test_what_is_wrong_is_named_and_the_services_go_on(services: Path) -> None:
    for args, code, message in (
        (("chat", "tiny:none", "-p", "a"), 4, "ENGINE_NOT_FOUND"),
        (("chat", "tiny", "-p", "a", "--window", "41"), 2, "window_tokens"),
        (("chat", "tiny", "-p", "word " * 200), 2, "TURN_EXCEEDS_WINDOW"),
        (("chat", "tiny", "-p", "a", "--system", "s " * 40, "--pin"), 2, "SYSTEM_PROMPT_EXCEEDS_SINKS"),
        (("engines", "delete", "tiny@1"), 1, "ENGINE_IN_USE"),
        (("build", str(services / "spec.yaml"), "--set", f"source.uri={services}/none"), 1, "SOURCE_NOT_FOUND"),
        (("engines", "alias", "tiny", "latest"), 2, "INVALID_ALIAS"),
    ):
        ran = sinkserve(*args)
        assert (ran.exit_code, message in ran.stderr) == (code, True), (args, ran.stderr)
    assert sinkserve("chat", "tiny", "-p", "a", "--max-new-tokens", "2").exit_code == 0


def test_at_a_terminal_ctrl_c_ends_the_reply_and_then_the_chat(services: Path) -> None:
    with terminal("chat", "tiny", "--max-new-tokens", "16000", "--ignore-eos") as (screen, keys, process):
        greeting = read_until(screen, PROMPT)
        assert "4 sinks + 40 tokens" in greeting
        assert "· greedy ·" in greeting
        keys.write(b"/stats\n")
        assert "tiny@1" in read_until(screen, PROMPT)
        keys.write(b"hello\n")
        read_until(screen, "hello\r\n")
        assert os.read(screen.fileno(), 1)
        keys.write(b"\x03")
        said = read_until(screen, PROMPT)
        assert "cancelled" in said
        assert "tok/s" in said
        keys.write(b"/window\n")
        drawn = read_until(screen, PROMPT)
        assert "kept for ever" in drawn
        assert "of 40, " in drawn
        wait_for_rest(process)
        keys.write(b"\x03")
        assert "Ctrl-C again" in read_until(screen, PROMPT)
        wait_for_rest(process)
        keys.write(b"\x03")
        assert "sinkserve chat --session" in read_until(screen, "sessions/")


def test_a_chat_goes_back_and_into_a_copy(services: Path) -> None:
    with terminal("chat", "tiny", "--max-new-tokens", "3") as (screen, keys, _):
        read_until(screen, PROMPT)
        for said, answer in (
            ("one", "position"),
            ("/set temperature 0.7", "temperature 0.7"),
            ("/set warmth 1", "one of max_new_tokens, temperature"),
            ("two", "position"),
            ("/set temperature", "greedy"),
            ("/again", "position"),
            ("/pin 3", "there are 2 turns; 1 is the last, and there is no 3"),
            ("/pin", "1 turn is pinned"),
            ("/unpin", "0 turns are pinned"),
            ("/rewind x", "takes how many turns"),
            ("/rewind 3", "there are 2 turns, and none was dropped"),
            ("/rewind", "1 turn dropped"),
            ("/fork", "stays as it is"),
            ("three", "position"),
            ("/rewind 2", "2 turns dropped"),
            ("/again", "nothing that could be asked again"),
        ):
            keys.write(f"{said}\n".encode())
            assert answer in read_until(screen, PROMPT), said
        keys.write(b"/quit\n")
        assert "sinkserve chat --session" in read_until(screen, "sessions/")
    sessions = json.loads(sinkserve("sessions", "list", "--json").stdout)["sessions"]
    assert sorted(session.get("turns", 0) for session in sessions[:2]) == [0, 1]
    for session in sessions:
        assert sinkserve("sessions", "delete", session["name"]).exit_code == 0


def test_a_session_is_forked_and_rewound_from_the_shell(services: Path) -> None:
    sinkserve("chat", "tiny", "--keep", "--max-new-tokens", "4", stdin="one\ntwo\nthree\n")
    (session, *_) = json.loads(sinkserve("sessions", "list", "--json").stdout)["sessions"]
    name = session["name"]
    turns = [turn["turn_id"] for turn in json.loads(sinkserve("sessions", "show", name, "--json").stdout)["turns"]]
    assert turns[1] in sinkserve("sessions", "show", name).stdout
    fork = json.loads(sinkserve("sessions", "fork", name, "--at", turns[1], "--json").stdout)["session"]
    assert fork["turns"] == 2
    assert "sinkserve chat --session sessions/" in sinkserve("sessions", "fork", name).stdout
    assert "has 1 turn left" in sinkserve("sessions", "rewind", name, turns[0]).stdout
    assert "has 0 turns left" in sinkserve("sessions", "rewind", name, turns[0], "--drop").stdout
    ran = sinkserve("sessions", "rewind", name, turns[2])
    assert (ran.exit_code, "TURN_NOT_FOUND" in ran.stderr) == (4, True)
    for found in json.loads(sinkserve("sessions", "list", "--json").stdout)["sessions"]:
        sinkserve("sessions", "delete", found["name"])


def wait_for_rest(process: subprocess.Popen[bytes]) -> None:
    """Until the command waits for a key: a signal right between its prompt and that is noticed with the next key."""
    spent = -1.0
    while (now := sum(sum(child.cpu_times()[:2]) for child in psutil.Process(process.pid).children())) != spent:
        spent = now
        time.sleep(0.2)


@contextmanager
def terminal(*args: str) -> Iterator[tuple[IO[bytes], IO[bytes], subprocess.Popen[bytes]]]:
    """The command at a terminal: its screen, the keys, and the process. It has to end well by itself."""
    with subprocess.Popen(
        [*AT_A_TERMINAL, *CLI, *args],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        bufsize=0,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.stdout, process.stdin, process
            assert process.wait(20) == 0
        finally:
            process.kill()


def test_one_command_leads_from_a_folder_to_a_reply_and_builds_once(folder: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "SINKSERVE_HOME": str(tmp_path)}
    command = [*CLI, "run", str(folder / "tiny"), "-p", "hello", "--max-new-tokens", "5", "--temperature", "0"]
    runs = [subprocess.run(command, env=environment, capture_output=True, text=True, check=True) for _ in range(2)]
    assert runs[0].stdout == runs[1].stdout != ""
    assert "export" in runs[0].stderr
    assert "onnxruntime: the processor" in runs[0].stderr
    assert "fp32: exact" in runs[0].stderr
    assert "export" not in runs[1].stderr


@pytest.mark.long
def test_services_that_do_not_start_say_why(folder: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "SINKSERVE_HOME": str(tmp_path), "SINKSERVE_RUNTIME_THREADS": "many"}
    command = [*CLI, "run", str(folder / "tiny"), "-p", "hello"]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "SINKSERVE_RUNTIME_THREADS" in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize("which", one_in(2, ["both", "runtime"], LONG))
def test_serve_says_where_it_listens_and_stops_when_asked(which: str, tmp_path: Path) -> None:
    listen = {f"SINKSERVE_{service}_LISTEN": "127.0.0.1:0" for service in ("BUILDER", "RUNTIME")}
    environment = {**os.environ, **listen, "SINKSERVE_HOME": str(tmp_path)}
    command = [*CLI, "serve", *([] if which == "both" else [which])]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            said = read_until(process.stdout, "Ctrl-C stops")
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 0
            assert process.stderr is not None
            assert b"stopping" in (noise := process.stderr.read())
            assert b"Traceback" not in noise
        finally:
            process.kill()
    assert re.findall(r"^(\w+) +127\.0\.0\.1:\d+$", said, re.MULTILINE) == (
        ["builder", "runtime"] if which == "both" else [which]
    )


@pytest.mark.long
def test_serve_reads_its_file_and_names_a_key_that_is_wrong(tmp_path: Path) -> None:
    config = tmp_path / "serve.yaml"
    config.write_text(f"home: {tmp_path}/home\nbuilder: {{listen: nonsense}}\n")
    ran = subprocess.run([*CLI, "serve", "--config", config], capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert "SINKSERVE_BUILDER_LISTEN: " in ran.stderr
    assert "Traceback" not in ran.stderr
