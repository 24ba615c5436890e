from __future__ import annotations

import os
import platform
import subprocess
import sys

from common.db.processes import is_alive, this_process

NAME = "from common.db.processes import this_process; print(this_process(), flush=True); input()"


def test_this_process_is_alive() -> None:
    assert is_alive(this_process())


def test_a_process_is_alive_until_it_ends() -> None:
    command = [sys.executable, "-c", NAME]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        name = process.stdout.readline().strip()
        assert is_alive(name)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and its parent has not asked how
        assert not is_alive(name)
    assert not is_alive(name)


def test_a_process_with_the_number_of_another_is_another() -> None:
    host, process, _ = this_process().rsplit("/", 2)
    assert not is_alive(f"{host}/{process}/earlier:1")


def test_nobody_declares_a_process_of_another_machine_dead() -> None:
    assert is_alive(f"not-{platform.node()}/1/x:1")
