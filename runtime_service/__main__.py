"""The runtime alone: `python -m runtime_service`. Settings come from the environment."""

from __future__ import annotations

import structlog

from common.rpc.program import run_program
from common.settings import SharedSettings
from runtime_service.service import RuntimeHandle, start_runtime
from runtime_service.settings import RuntimeSettings

log = structlog.get_logger()


async def _start(shared: SharedSettings) -> RuntimeHandle:
    settings = RuntimeSettings.load()
    runtime = await start_runtime(settings, shared)
    metrics, engines = runtime.metrics.address, list(settings.engines)
    log.info("runtime.listening", address=runtime.address, metrics=metrics, engines=engines)
    return runtime


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    run_program("runtime", _start)


if __name__ == "__main__":
    main()
