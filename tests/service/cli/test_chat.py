"""`sinkserve chat` against a scripted runtime: what is printed where, and how it exits."""

from __future__ import annotations

import asyncio
import signal

from tests.service.cli.shell import Shell


async def test_a_prompt_prints_its_reply_and_leaves_no_session(shell: Shell) -> None:
    ran = await shell.run("chat", "demo", "--prompt", "hello there", "--seed", "7", "--stop", "a", "--stop", "b")
    assert (ran.code, ran.out, ran.err) == (0, "hello there \n", "")
    assert not shell.runtime.sessions
    assert shell.runtime.opens[0].new_session.options.delete_after_idle_duration.seconds == 3600


async def test_sampling_options_reach_the_server(shell: Shell) -> None:
    options = "--keep -p hi --seed 7 --stop a --stop b --temperature 0 --top-k 5 --window 9 --speculated-tokens 4"
    options += " --recall-tokens 2"
    await shell.run("chat", "demo", *options.split())
    (session,) = shell.runtime.sessions.values()
    (turn,) = session.turns.values()
    assert (turn.generation.seed, list(turn.generation.stop), turn.generation.top_k) == (7, ["a", "b"], 5)
    assert turn.generation.speculated_tokens == 4
    assert turn.generation.HasField("temperature")
    assert not turn.generation.HasField("top_p")
    assert (session.session.options.window_tokens, session.session.options.recall_tokens) == (9, 2)
    assert not session.session.options.HasField("delete_after_idle_duration")


async def test_what_is_forgotten_is_said_beside_the_replies(shell: Shell) -> None:
    ran = await shell.run("chat", "demo", "--on-full", "notify", stdin="my cat is called Ada\n")
    assert (ran.code, ran.out) == (0, "my cat is called Ada \n")
    assert ran.err == 'forgotten: 1 token, with the beginning of 1 turn: "my cat is called Ada"\n'
    wrong = await shell.run("chat", "demo", "--on-full", "shout", "-p", "hi")
    assert wrong.code == 2
    assert "'shout' is not one of" in wrong.err


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
