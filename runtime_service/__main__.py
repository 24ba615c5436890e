"""The runtime alone: `python -m runtime_service`. Settings come from the environment."""

from __future__ import annotations

import asyncio
import sys

import structlog

from common.errors import SinkServeError
from common.rpc.server import stop_requested
from common.settings import SettingsError, SharedSettings
from common.telemetry import configure_logging
from runtime_service.service import start_runtime
from runtime_service.settings import RuntimeSettings

log = structlog.get_logger()


async def _serve(settings: RuntimeSettings, shared: SharedSettings) -> None:
    runtime = await start_runtime(settings, shared)
    metrics = runtime.metrics.address
    log.info("runtime.listening", address=runtime.address, metrics=metrics, engines=list(settings.engines))
    await stop_requested()
    log.info("runtime.stopping", grace_s=settings.drain_grace_s)
    await runtime.stop()


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    try:
        shared = SharedSettings.load()
        configure_logging(json=shared.log_format == "json")
        asyncio.run(_serve(RuntimeSettings.load(), shared))
    except (SettingsError, SinkServeError, OSError) as error:
        sys.exit(f"runtime: {error}")


if __name__ == "__main__":
    main()
