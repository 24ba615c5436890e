"""The page in a browser, before a real runtime."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from pathlib import Path

import pytest

from sinkserve.client import Client
from tests.nightly import LONG, one_in
from tests.servers.browser import browser_program
from tests.servers.node import link_packages
from tests.service.runtime.runtime import Bench
from tests.service.web.door import NOBODY, door_to

SCRIPT = Path(__file__).with_name("browser.mjs")
SCRIPTS = tuple(Path(__file__).parent.glob("*.mjs"))


@pytest.mark.timeout(600)  # it is a suite, whose steps each have a timeout of their own
@pytest.mark.parametrize("count", one_in(2, [1, 100], LONG), ids=["a conversation", "everything"])
async def test_people_use_it(bench: Bench, tooled: Bench, tmp_path: Path, count: int) -> None:
    program = browser_program()
    link_packages(tmp_path)
    for script in SCRIPTS:
        shutil.copy(script, tmp_path)
    bench.before_step = lambda _: time.sleep(0.005)
    bench.publish(ends=0)  # so that a reply ends where somebody says so
    async with Client(bench.handle.address, NOBODY, runtime_admin=bench.handle.admin_address) as client:
        await client.engines.load("demo@2")
        await client.engines.unload("demo@1")
    services = (bench.handle.address, NOBODY, bench.handle.admin_address)
    async with (
        door_to(*services) as origin,
        door_to(*services, anonymous="refuse") as locked,
        door_to(tooled.handle.address) as with_tools,
    ):
        command = ("node", SCRIPT.name, program, origin, locked, with_tools, str(count))
        ran = await asyncio.create_subprocess_exec(
            *command, cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        out, err = await ran.communicate()
    assert ran.returncode == 0, err.decode()
    failed = {name: why for name, why in json.loads(out).items() if why}
    assert not failed, "\n\n".join(f"{name}: {why}" for name, why in failed.items())
