"""`sinkserve build` against a scripted builder: what is printed where, and how it exits."""

from __future__ import annotations

import asyncio
import signal

from tests.service.cli.shell import Shell, write_spec


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
