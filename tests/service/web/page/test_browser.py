"""The page in a browser, before a real runtime."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

from tests.servers.browser import browser_program
from tests.servers.node import link_packages
from tests.service.runtime.runtime import Bench
from tests.service.web.serving import serving_web

SCRIPT = Path(__file__).with_name("browser.mjs")


async def test_people_use_it(bench: Bench, tmp_path: Path) -> None:
    program = browser_program()
    link_packages(tmp_path)
    shutil.copy(SCRIPT, tmp_path)
    services = {
        "runtime": bench.handle.address,
        "runtime_admin": bench.handle.admin_address,
        "builder": "127.0.0.1:1",
    }
    async with serving_web(services, {}) as origin, serving_web(services, {"anonymous": "refuse"}) as locked:
        command = ("node", SCRIPT.name, program, origin, locked)
        ran = await asyncio.create_subprocess_exec(
            *command, cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        out, err = await ran.communicate()
    assert ran.returncode == 0, err.decode()
    failed = {name: why for name, why in json.loads(out).items() if why}
    assert not failed, "\n\n".join(f"{name}: {why}" for name, why in failed.items())
