#!/usr/bin/env bash
# grpcio 1.85.3: a status whose trailers are between 8 and 16 KiB reaches the client by chance.
#
# gRPC has a soft limit (8 KiB by default) and a hard one (16 KiB) for received metadata. Between the two it drops the call at
# random, the more often the larger: the same answer is INTERNAL with its trailers once and RESOURCE_EXHAUSTED ("received metadata
# size exceeds soft limit") the next time. Error details travel in trailers (grpc-status-details-bin), so a long
# error list is not just cut: the status itself changes, and a client may retry what it should not.
#
# Seen, of 60 calls each: 4,000 bytes: all arrive; 12,000: 29 arrive, 31 do not; 17,000: none arrives.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check grpcio==1.85.3
"$work/env/bin/python" - <<'CODE'
import asyncio
from collections import Counter

import grpc

async def fail(request, context):
    await context.abort(grpc.StatusCode.INTERNAL, "as asked", trailing_metadata=(("big", "y" * int(request)),))

class Handlers(grpc.GenericRpcHandler):
    def service(self, _details):
        return grpc.unary_unary_rpc_method_handler(fail)

async def codes(channel, size):
    found = Counter()
    for _ in range(60):
        try:
            await channel.unary_unary("/test/Fail")(str(size).encode())
        except grpc.aio.AioRpcError as error:
            found[error.code().name] += 1
    return found

async def main():
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Handlers(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
        small, between, large = [await codes(channel, size) for size in (4_000, 12_000, 17_000)]
    await server.stop(0)
    print("4,000 bytes", dict(small), "12,000", dict(between), "17,000", dict(large))
    assert set(small) == {"INTERNAL"} and set(large) == {"RESOURCE_EXHAUSTED"}
    assert set(between) == {"INTERNAL", "RESOURCE_EXHAUSTED"}

asyncio.run(main())
CODE
echo "as described"
