"""From a command to a runtime that serves: a process is started with the demo engine, until its health says SERVING.

python bench/service/startup.py [--rounds 5] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sinkserve.cli.services.embedded import embedded_services

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sinkserve-startup-") as home:
        os.environ |= {
            "SINKSERVE_HOME": home,
            "SINKSERVE_RUNTIME_ADMIN_LISTEN": "",
            "SINKSERVE_RUNTIME_METRICS_LISTEN": "",
        }
        publish()
        seconds = [start() for _ in range(arguments.rounds)]
    if arguments.json:
        sys.stdout.write(json.dumps(seconds) + "\n")
    else:
        print(f"{median(seconds):.2f} s to serving, of {arguments.rounds}: {min(seconds):.2f} to {max(seconds):.2f}")


def publish() -> None:
    """Build the demo engine into this home."""
    with embedded_services(ROOT / "demo") as addresses:
        program = str(Path(sys.executable).with_name("sinkserve"))
        command = [program, "build", str(ROOT / "demo" / "spec.yaml"), "--builder", addresses.builder]
        subprocess.run(command, check=True, capture_output=True)


def start() -> float:
    """Seconds until a new runtime serves."""
    address = f"127.0.0.1:{free_port()}"
    environment = os.environ | {"SINKSERVE_RUNTIME_LISTEN": address, "SINKSERVE_RUNTIME_ENGINES": "demo"}
    began = time.perf_counter()
    command = [sys.executable, "-m", "runtime_service"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        while not serves(address):
            assert process.poll() is None, "the runtime ended"
            time.sleep(0.02)
        seconds = time.perf_counter() - began
        process.terminate()
    return seconds


def serves(address: str) -> bool:
    with grpc.insecure_channel(address) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=1)
        except grpc.RpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


if __name__ == "__main__":
    main()
