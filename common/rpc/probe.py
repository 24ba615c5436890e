"""`python -m common.rpc.probe ADDRESS [SERVICE]`: exits with 0 if the server there is SERVING.

ADDRESS is that of a gRPC listener without TLS, or HOST:PORT/readyz or /livez of the metrics port, which asks for no
client's certificate: with TLS where this environment has SINKSERVE_TLS_CERTIFICATE, as the server's own has.
"""

from __future__ import annotations

import os
import ssl
import sys
import urllib.error
import urllib.request

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from common.rpc.proxy import DIRECT

TIMEOUT_S = 3.0
SERVING = "SERVING"


def probe(address: str, service: str = "") -> str:
    """The health status of a server, such as SERVING, or why it does not answer; asked without any proxy."""
    with grpc.insecure_channel(address, options=[DIRECT]) as channel:
        try:
            request = health_pb2.HealthCheckRequest(service=service)
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            return str(error.code().name)
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def probe_page(page: str, *, tls: bool) -> str:
    """SERVING if HOST:PORT/PATH says so, or why not; whose certificate it is says who asks, not the server."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    handlers = (urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    try:
        opener = urllib.request.build_opener(*handlers)
        with opener.open(f"{'https' if tls else 'http'}://{page}", timeout=TIMEOUT_S):
            return SERVING
    except urllib.error.HTTPError as error:
        error.close()
        return f"NOT_SERVING ({error.code})"
    except OSError as error:
        return f"UNAVAILABLE ({error})"


def main() -> None:
    """Probe, and exit with 0 or 1."""
    address, *service = sys.argv[1:3]
    tls = bool(os.environ.get("SINKSERVE_TLS_CERTIFICATE"))
    said = probe_page(address, tls=tls) if "/" in address else probe(address, *service)
    sys.exit(0 if said == SERVING else f"{address}: {said}")


if __name__ == "__main__":
    main()
