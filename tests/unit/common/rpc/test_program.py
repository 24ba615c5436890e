"""A program that is asked to stop ends, whatever hangs in it."""

from __future__ import annotations

import subprocess
import sys

from common.rpc.program import HUNG

_HANGS = """
import asyncio, time
from common.rpc import program
program.LEFT_S = 0.1
async def hang():
    program.end_within(0.1)
    await asyncio.to_thread(time.sleep, 600)
asyncio.run(hang())
"""


def test_what_hangs_is_named_and_ended() -> None:
    ended = subprocess.run([sys.executable, "-c", _HANGS], capture_output=True, text=True, check=False)
    assert ended.returncode == HUNG
    assert "ended by force" in ended.stderr
    assert "thread.py" in ended.stderr  # where the work that hangs is
