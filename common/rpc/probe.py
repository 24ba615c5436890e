"""`python -m common.rpc.probe ADDRESS [SERVICE]`: exits with 0 if the server there is SERVING."""

from __future__ import annotations

import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from common.rpc.proxy import DIRECT

TIMEOUT_S = 3.0


def probe(address: str, service: str = "") -> str:
    """The health status of a server, such as SERVING, or why it does not answer; asked without any proxy."""
    with grpc.insecure_channel(address, options=[DIRECT]) as channel:
        try:
            request = health_pb2.HealthCheckRequest(service=service)
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            return str(error.code().name)
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def main() -> None:
    """Probe, and exit with 0 or 1."""
    said = probe(*sys.argv[1:3])
    sys.exit(0 if said == "SERVING" else f"{sys.argv[1]}: {said}")


if __name__ == "__main__":
    main()
