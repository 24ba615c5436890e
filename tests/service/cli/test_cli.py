"""The command line as a process, against scripted services: what is printed where, and how it exits."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from sinkserve.cli.app import make_app
from sinkserve.engine.v1.engine_pb2 import Hardware
from tests.fakes.scripted_builder import ScriptedBuilder, start_scripted_builder
from tests.fakes.scripted_runtime import ScriptedRuntime, start_scripted_runtime


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


class Shell:
    """Runs `sinkserve` with the addresses of scripted services, in a folder of its own."""

    def __init__(self, builder_address: str, runtime_address: str, folder: Path) -> None:
        self.builder = ScriptedBuilder()
        self.runtime = ScriptedRuntime()
        self.environment = {
            **os.environ,
            "SINKSERVE_CLIENT_BUILDER": builder_address,
            "SINKSERVE_CLIENT_RUNTIME": runtime_address,
            "SINKSERVE_HOME": str(folder / "home"),
            "COLUMNS": "200",
        }
        self.folder = folder

    async def start(self, *args: str) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "sinkserve.cli", *args),
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            env=self.environment,
            cwd=self.folder,
        )

    async def run(self, *args: str, stdin: str = "") -> Ran:
        """Run in a thread of this process, which is ten times as fast as a process of its own."""
        result = await asyncio.to_thread(self._invoke, args, stdin)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Ran(result.exit_code, result.stdout, result.stderr)

    def _invoke(self, args: tuple[str, ...], stdin: str) -> Result:
        return CliRunner().invoke(make_app(args), args, input=stdin, env=self.environment)


@pytest.fixture
async def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Shell]:
    monkeypatch.chdir(tmp_path)
    shell = Shell("", "", tmp_path)
    building = await start_scripted_builder(shell.builder)
    running = await start_scripted_runtime(shell.runtime)
    shell.environment |= {
        "SINKSERVE_CLIENT_BUILDER": building.address,
        "SINKSERVE_CLIENT_RUNTIME": running.address,
    }
    yield shell
    await running.stop(0)
    await building.stop(0)


def write_spec(folder: Path, name: str = "demo") -> Path:
    spec = folder / "specs" / "demo.yaml"
    spec.parent.mkdir(exist_ok=True)
    spec.write_text(f"name: {name}\nsource: {{uri: ./model}}\ncache: {{window_tokens: 252}}\n")
    return spec


async def test_a_prompt_prints_its_reply_and_leaves_no_session(shell: Shell) -> None:
    ran = await shell.run("chat", "demo", "--prompt", "hello there", "--seed", "7", "--stop", "a", "--stop", "b")
    assert (ran.code, ran.out, ran.err) == (0, "hello there \n", "")
    assert not shell.runtime.sessions
    assert shell.runtime.opens[0].new_session.options.delete_after_idle_duration.seconds == 3600


async def test_sampling_options_reach_the_server(shell: Shell) -> None:
    options = "--keep -p hi --seed 7 --stop a --stop b --temperature 0 --top-k 5 --window 9 --speculated-tokens 4"
    await shell.run("chat", "demo", *options.split())
    (session,) = shell.runtime.sessions.values()
    (turn,) = session.turns.values()
    assert (turn.generation.seed, list(turn.generation.stop), turn.generation.top_k) == (7, ["a", "b"], 5)
    assert turn.generation.speculated_tokens == 4
    assert turn.generation.HasField("temperature")
    assert not turn.generation.HasField("top_p")
    assert session.session.options.window_tokens == 9
    assert not session.session.options.HasField("delete_after_idle_duration")


async def test_sessions_are_found_by_label_and_changed(shell: Shell) -> None:
    await shell.run("chat", "demo", "--keep", "-p", "one")
    (name,) = shell.runtime.sessions
    ran = await shell.run("sessions", "update", name, "--label", "a=b=c", "--delete-after-idle", "60", "--json")
    changed = json.loads(ran.out)["session"]
    assert (changed["labels"], changed["options"]["delete_after_idle_duration"]) == ({"a": "b=c"}, "60s")
    for options, found in (("--label a=b=c", 1), ("--label a=b", 0), ("--engine demo", 1), ("--engine other", 0)):
        ran = await shell.run("sessions", "list", "--json", *options.split())
        assert len(json.loads(ran.out)["sessions"]) == found
    ran = await shell.run("sessions", "update", name, "--no-labels", "--delete-after-idle", "never", "--json")
    assert json.loads(ran.out)["session"]["labels"] == {}
    for wrong in ((), ("--label", "a"), ("--delete-after-idle", "soon"), ("--label", "a=b", "--no-labels")):
        assert (await shell.run("sessions", "update", name, *wrong)).code == 2


async def test_each_line_of_a_pipe_is_a_turn(shell: Shell) -> None:
    ran = await shell.run("chat", "demo", "--keep", stdin="first line\n\nsecond line\n")
    assert (ran.code, ran.out) == (0, "first line \nsecond line \n")
    (session,) = shell.runtime.sessions.values()
    assert session.runs == 2


async def test_a_session_is_resumed_and_stays(shell: Shell) -> None:
    await shell.run("chat", "demo", "--keep", "-p", "one")
    (name,) = shell.runtime.sessions
    ran = await shell.run("chat", "--session", name, "-p", "two")
    assert ran.out == "two \n"
    assert shell.runtime.sessions[name].runs == 2


async def test_a_failed_turn_of_a_pipe_ends_it(shell: Shell) -> None:
    ran = await shell.run("chat", "demo", stdin="explode now\nnever said\n")
    assert (ran.code, ran.out) == (1, "explode now \n")
    assert "error the model gave logits that are not finite (NON_FINITE_LOGITS)" in ran.err
    assert not shell.runtime.sessions


async def test_an_interrupt_cancels_the_turn_and_what_was_said_stays(shell: Shell) -> None:
    shell.runtime.pace = lambda: asyncio.sleep(0.05)
    process = await shell.start("chat", "demo", "--keep", "-p", "word " * 500)
    assert process.stdout is not None
    await process.stdout.readexactly(len("word "))
    process.send_signal(signal.SIGINT)
    out, err = await process.communicate()
    assert (process.returncode, err) == (0, b"")
    (session,) = shell.runtime.sessions.values()
    assert len(session.cancelled) == 1
    assert out.count(b"word") < 400


async def test_a_second_interrupt_leaves(shell: Shell) -> None:
    shell.runtime.pace = lambda: asyncio.sleep(3600)
    process = await shell.start("chat", "demo", "-p", "word")
    while not any(session.log for session in shell.runtime.sessions.values()):  # noqa: ASYNC110 - another process
        await asyncio.sleep(0.01)
    process.send_signal(signal.SIGINT)
    while not any(session.cancelled for session in shell.runtime.sessions.values()):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = await process.communicate()
    assert process.returncode == 130
    assert b"Traceback" not in err


async def test_a_build_prints_its_stages_its_log_and_the_reference(shell: Shell) -> None:
    spec = write_spec(shell.folder)
    ran = await shell.run("build", str(spec), "--set", "cache.window_tokens=508", "--set", "precision=int8")
    assert (ran.code, ran.out) == (0, "demo@1\n")
    assert [line for line in ran.err.splitlines() if line in {"resolve", "export", "publish"}] == [
        "resolve",
        "export",
        "publish",
    ]
    assert "  [0] a line" in ran.err
    sent = shell.builder.builds["builds/b1"].spec
    assert sent.source.uri == str(shell.folder / "specs" / "model")
    assert (sent.cache.window_tokens, sent.cache.sink_tokens) == (508, 4)


async def test_a_failed_build_says_why_with_the_field(shell: Shell) -> None:
    ran = await shell.run("build", str(write_spec(shell.folder, "broken")))
    assert (ran.code, ran.out) == (1, "")
    assert "error hidden_act is relu (CONFIG_UNSUPPORTED)" in ran.err
    assert "config.hidden_act" in ran.err
    assert "builds/b1" in ran.err


async def test_a_detached_build_prints_its_name_and_can_be_watched(shell: Shell) -> None:
    ran = await shell.run("build", str(write_spec(shell.folder)), "--detach")
    assert ran.out == "builds/b1\n"
    assert (await shell.run("builds", "watch", "b1")).out == "demo@1\n"
    assert (await shell.run("builds", "logs", "b1")).out == "[0] a line\n[1] a line\n[2] a line\n"
    assert (await shell.run("builds", "show", "b1", "--json")).document["build"]["state"] == "STATE_SUCCEEDED"
    ended = await shell.run("builds", "cancel", "b1")
    assert (ended.code, "BUILD_ENDED" in ended.err) == (1, True)


async def test_an_interrupted_watch_leaves_the_build_alone(shell: Shell) -> None:
    shell.builder.gate = asyncio.Event()
    process = await shell.start("build", str(write_spec(shell.folder)))
    assert process.stderr is not None
    while b"[0]" not in await process.stderr.readline():
        pass
    process.send_signal(signal.SIGINT)
    _, err = await process.communicate()
    assert process.returncode == 130
    assert b"builds/b1 goes on" in err
    shell.builder.gate.set()


@pytest.mark.parametrize(
    ("args", "message", "code"),
    [
        (("build", "nowhere.yaml"), "there is no spec file", 4),
        (("build", "specs/demo.yaml", "--set", "cache.window_tokens=0"), "cache.window_tokens", 2),
        (("build", "specs/demo.yaml", "--set", "nonsense"), "--set takes KEY=VALUE", 2),
        (("chat",), "name an engine", 2),
        (("chat", "demo", "--session", "a"), "leave out the engine", 2),
        (("chat", "missing", "-p", "a"), "ENGINE_NOT_FOUND", 4),
        (("chat", "demo", "-p", "a", "--temperature", "11"), "0 to 10 is allowed", 2),
        (("chat", "--session", "none", "-p", "a"), "no session sessions/none", 4),
        (("sessions", "show", "none"), "SESSION_NOT_FOUND", 4),
        (("engines", "show", "none"), "there is no engine none", 4),
        (("builds", "show", "none"), "there is no builds/none", 4),
        (("engines", "alias", "demo", "--delete"), "--delete takes the alias", 2),
        (("sesions",), "Did you mean 'sessions'", 2),
    ],
)
async def test_what_is_wrong_is_said_on_stderr_without_a_traceback(
    shell: Shell, args: tuple[str, ...], message: str, code: int
) -> None:
    write_spec(shell.folder)
    ran = await shell.run(*args)
    assert ran.code == code
    assert ran.out == ""
    assert message in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize("args", [("builds", "list"), ("chat", "demo", "-p", "a"), ("engines", "loaded")])
async def test_nobody_there_names_the_address_and_the_command_that_helps(shell: Shell, args: tuple[str, ...]) -> None:
    shell.environment |= {"SINKSERVE_CLIENT_BUILDER": "127.0.0.1:1", "SINKSERVE_CLIENT_RUNTIME": "127.0.0.1:1"}
    ran = await shell.run(*args)
    assert (ran.code, ran.out) == (3, "")
    assert "nobody answers at 127.0.0.1:1" in ran.err
    assert "`sinkserve serve`" in ran.err


async def test_a_proxy_is_not_for_this_machine_and_is_named_where_it_does_not_answer(shell: Shell) -> None:
    shell.environment["http_proxy"] = "http://127.0.0.1:1"
    assert (await shell.run("engines", "loaded")).code == 0
    shell.environment["SINKSERVE_CLIENT_RUNTIME"] = "runtime.invalid:1"
    ran = await shell.run("engines", "loaded")
    assert (ran.code, ran.out) == (3, "")
    assert "nobody answers at runtime.invalid:1 through the proxy http_proxy=http://127.0.0.1:1" in ran.err
    assert "no_proxy=runtime.invalid" in ran.err


async def test_a_bad_address_names_its_variable(shell: Shell) -> None:
    shell.environment["SINKSERVE_CLIENT_BUILDER"] = "nonsense"
    ran = await shell.run("builds", "list")
    assert ran.code == 2
    assert "SINKSERVE_CLIENT_BUILDER" in ran.err


async def test_every_listing_is_a_table_and_a_document(shell: Shell) -> None:
    await shell.run("build", str(write_spec(shell.folder)))
    await shell.run("chat", "demo", "--keep", "-p", "hello there")
    await shell.run("engines", "load", "demo@1")
    for args, key, word in (
        (("builds", "list"), "builds", "succeeded"),
        (("engines", "list"), "engines", "demo@1"),
        (("engines", "loaded"), "engines", "0 of 4"),
        (("sessions", "list"), "sessions", "demo@1"),
    ):
        table = await shell.run(*args)
        assert (table.code, word in table.out) == (0, True)
        (item,) = (await shell.run(*args, "--json")).document[key]
        assert item


async def test_an_empty_listing_says_so_and_is_an_empty_document(shell: Shell) -> None:
    ran = await shell.run("sessions", "list")
    assert (ran.out, ran.err) == ("", "no sessions\n")
    assert (await shell.run("sessions", "list", "--json")).document == {"sessions": []}


async def test_a_session_is_shown_and_deleted(shell: Shell) -> None:
    await shell.run("chat", "demo", "--keep", "-p", "hello [bold] there")
    (name,) = shell.runtime.sessions
    shown = await shell.run("sessions", "show", name)
    assert "user hello [bold] there\n" in shown.out
    assert "reply hello [bold] there\n" in shown.out
    document = (await shell.run("sessions", "show", name, "--json")).document
    assert (document["session"]["name"], document["turns"][0]["text"]) == (name, "hello [bold] there")
    assert (await shell.run("sessions", "delete", name)).code == 0
    assert not shell.runtime.sessions


async def test_an_engine_that_was_compiled_shows_for_what(shell: Shell) -> None:
    await shell.run("build", str(write_spec(shell.folder)))
    assert "hardware" not in (await shell.run("engines", "show", "demo")).out
    hardware = Hardware(gpu="NVIDIA H200", compute_capability="9.0", tensorrt_version="11.4.0.106")
    hardware.cuda_version, hardware.platform = "13.0", "linux"
    shell.builder.engines[0].manifest.hardware.CopyFrom(hardware)
    shown = (await shell.run("engines", "show", "demo")).out
    assert "NVIDIA H200, compute capability 9.0, TensorRT 11.4.0.106, CUDA 13.0, linux\n" in shown


async def test_engines_are_shown_aliased_verified_and_deleted(shell: Shell) -> None:
    await shell.run("build", str(write_spec(shell.folder)))
    assert "llama, 7.9M" in (await shell.run("engines", "show", "demo")).out
    assert "all as they were" in (await shell.run("engines", "verify", "demo")).out
    assert "demo:good" in (await shell.run("engines", "alias", "demo@1", "good")).out
    assert (await shell.run("engines", "alias", "demo", "--json")).document["aliases"][0]["alias"] == "good"
    assert (await shell.run("engines", "alias", "demo", "good", "--delete")).code == 0
    refused = await shell.run("engines", "delete", "demo@1")
    assert (refused.code, "ENGINE_IN_USE" in refused.err) == (1, True)
    assert (await shell.run("engines", "delete", "demo@1", "--force")).code == 0
    assert (await shell.run("engines", "list", "--json")).document == {"engines": []}


async def test_garbage_is_counted_then_collected(shell: Shell) -> None:
    counted = await shell.run("engines", "gc", "--dry-run")
    assert (counted.code, "3 blobs would be deleted, 3.0 KB" in counted.out) == (0, True)
    assert "3 blobs deleted" in (await shell.run("engines", "gc")).out
    collected = (await shell.run("engines", "gc", "--json")).document["collected"]
    assert collected == {"deleted_blobs": "0", "deleted_bytes": "0", "published_blobs": "0", "claimed_blobs": "1"}
