"""OpenAI's own client for Node, and its helpers for streams."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

from tests.servers.node import link_packages, seen
from tests.service.web.door import ENDING

NODE = Path(__file__).resolve().parent / "node"


async def test_it_holds_a_conversation(url: str, tmp_path: Path) -> None:
    folder = tmp_path / "node"
    folder.mkdir()
    link_packages(folder, NODE)
    for file in ("talk.mjs", "package.json"):
        shutil.copy(NODE / file, folder)
    arguments = json.dumps({"text": ENDING, "tokens": 400})
    process = await asyncio.create_subprocess_exec(
        *("node", "talk.mjs", f"{url}/v1", arguments),
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    saw: dict[str, Any] = await seen(process)
    assert saw["pieces"] == saw["text"] == saw["chat"] != ""
    assert [name.rpartition("_")[2] for name in saw["ids"]] == ["1", "2"]
    assert saw["usage"]["completion_tokens"] > 6
    assert saw["refused"] == {"status": 400, "param": "n", "name": "BadRequestError"}
    assert saw["models"] == ["demo", "demo@1"]
