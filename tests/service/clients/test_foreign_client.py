"""A client in another language: `buf curl`, Go's gRPC, which learns the messages by reflection."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

from google.rpc import error_details_pb2

from tests.service.runtime.runtime import Bench

BUF = Path(sys.executable).parent / "buf"
README = Path(__file__).resolve().parents[3] / "README.md"
SERVICE = "sinkserve.runtime.v1.ConversationService"


async def _call(bench: Bench, method: str, *requests: dict[str, Any]) -> tuple[int, list[dict[str, Any]], str]:
    url = f"http://{bench.handle.address}/{SERVICE}/{method}"
    process = await asyncio.create_subprocess_exec(
        *(str(BUF), "curl", "--protocol", "grpc", "--http2-prior-knowledge", "--data", "@-", url),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate("\n".join(map(json.dumps, requests)).encode())
    return process.returncode or 0, _messages(out.decode()), err.decode()


def _messages(text: str) -> list[dict[str, Any]]:
    """JSON objects that follow one another."""
    decoder, found = json.JSONDecoder(), []
    while text := text.lstrip():
        message, end = decoder.raw_decode(text)
        found.append(message)
        text = text[end:]
    return found


async def test_what_the_readme_says_holds_a_conversation_from_a_shell(bench: Bench) -> None:
    (script,) = re.findall(r"^```sh\n([^`]*buf curl[^`]*)^```", README.read_text(), re.MULTILINE)
    assert script.count("127.0.0.1:50071") == 1
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", script.replace("127.0.0.1:50071", bench.handle.address)),
        env=os.environ | {"PATH": f"{BUF.parent}:{os.environ['PATH']}"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert (process.returncode, err.decode()) == (0, "")
    events = _messages(out.decode())
    assert "opened" in events[0]
    reply = "".join(event["delta"].get("text", "") for event in events if "delta" in event)
    assert reply == (await _turns(bench, events[0]["opened"]["session"]["name"]))[0]["reply"]
    assert events[-1]["finished"]["reason"] in {"FINISH_REASON_STOP", "FINISH_REASON_LENGTH"}


async def _turns(bench: Bench, session: str) -> list[dict[str, Any]]:
    code, (answer,), err = await _call(bench, "ListTurns", {"session": session})
    assert (code, err) == (0, "")
    turns: list[dict[str, Any]] = answer["turns"]
    return turns


async def test_a_go_client_holds_a_conversation(bench: Bench) -> None:
    code, events, err = await _call(
        bench,
        "Converse",
        {"open": {"newSession": {"engine": "demo", "sessionId": "from-go"}}},
        {"turn": {"turnId": "one", "text": "hello", "generation": {"maxNewTokens": 4, "ignoreEos": True}}},
        {"turn": {"turnId": "two", "tokenIds": {"ids": [5, 6, 7]}, "noReply": True}},
    )
    assert (code, err) == (0, "")
    finished = {event["finished"]["turnId"]: event["finished"] for event in events if "finished" in event}
    assert events[0]["opened"]["session"]["name"] == "sessions/from-go"
    assert finished["one"]["reason"] == "FINISH_REASON_LENGTH"
    assert finished["one"]["usage"]["generatedTokens"] == 4
    assert finished["two"]["reason"] == "FINISH_REASON_INPUT_ONLY"


async def test_a_go_client_reads_why_it_was_refused(bench: Bench) -> None:
    code, _, err = await _call(bench, "GetSession", {"name": "sessions/nowhere"})
    assert code != 0
    error = json.loads(err)
    assert error["code"] == "not_found"
    packed = base64.b64decode(error["details"][0]["value"] + "==")
    assert error_details_pb2.ErrorInfo.FromString(packed).reason == "SESSION_NOT_FOUND"


async def test_a_go_client_lists_every_method(bench: Bench) -> None:
    process = await asyncio.create_subprocess_exec(
        *(str(BUF), "curl", "--protocol", "grpc", "--http2-prior-knowledge", "--list-methods"),
        f"http://{bench.handle.address}",
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    assert {f"{SERVICE}/Converse", "grpc.health.v1.Health/Watch"} <= set(out.decode().split())
