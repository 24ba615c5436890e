"""What goes wrong, is said on stderr: what it was, and what helps."""

from __future__ import annotations

import pytest

from tests.service.cli.shell import Shell, write_spec


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
