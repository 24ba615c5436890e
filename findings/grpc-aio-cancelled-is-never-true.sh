#!/usr/bin/env bash
# grpcio 1.85.3, grpc.aio server: context.cancelled() is False for a call that its client has cancelled.
#
# A client cancels a bidirectional stream. The handler's `async for` over the requests simply ends, as after a half-close; at that moment
# neither cancelled() nor done() is True. Then CancelledError is raised in the handler, and cancelled() is still False. So a
# handler cannot ask the context whether the client has gone: it has to let the exception come.
#
# Seen: (cancelled, done) is (False, False) both after the requests end and inside `except CancelledError`.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check grpcio==1.85.3
"$work/env/bin/python" - <<'CODE'
import asyncio

import grpc

seen = {}
over = asyncio.Event()

async def echo(requests, context):
    try:
        async for _ in requests:
            await context.write(b"x")
        seen["the requests have ended"] = (context.cancelled(), context.done())
        await asyncio.sleep(30)
    except asyncio.CancelledError:
        seen["CancelledError"] = (context.cancelled(), context.done())
        raise
    finally:
        over.set()

class Handlers(grpc.GenericRpcHandler):
    def service(self, _details):
        return grpc.stream_stream_rpc_method_handler(echo)

async def main():
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Handlers(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
        call = channel.stream_stream("/test/Echo")()
        await call.write(b"1")
        await call.read()
        call.cancel()
        await over.wait()
    await server.stop(0)
    print(seen)
    assert seen["CancelledError"][0] is False
    assert all(not cancelled for cancelled, _ in seen.values())

asyncio.run(main())
CODE
echo "as described"
