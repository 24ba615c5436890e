from __future__ import annotations

import asyncio
import subprocess
import sys

import grpc
from grpc_health.v1 import health_pb2_grpc

from common.rpc.health import LIVENESS, HealthServicer
from common.rpc.probe import probe


async def test_a_probe_tells_a_server_that_serves_from_one_that_drains_and_one_that_is_gone() -> None:
    health = HealthServicer()
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    assert await asyncio.to_thread(probe, address) == "NOT_SERVING"
    assert await asyncio.to_thread(probe, address, LIVENESS) == "SERVING"
    assert await asyncio.to_thread(_exit_code, address) == 1
    health.set_ready(ready=True)
    assert await asyncio.to_thread(_exit_code, address) == 0
    assert await asyncio.to_thread(probe, address, "no.such.Service") in {"NOT_FOUND", "UNKNOWN"}
    await server.stop(None)
    assert await asyncio.to_thread(probe, address) == "UNAVAILABLE"


def _exit_code(address: str) -> int:
    return subprocess.run(
        [sys.executable, "-m", "common.rpc.probe", address], check=False, stderr=subprocess.DEVNULL
    ).returncode
