"""The runtime alone: `python -m runtime_service`. Settings come from the environment."""

from __future__ import annotations

import asyncio
import sys

import structlog

from common.errors import SinkServeError
from common.server import stop_requested
from common.settings import SettingsError, SharedSettings
from common.telemetry import configure_logging
from runtime_service.service import start_runtime
from runtime_service.settings import RuntimeSettings

log = structlog.get_logger()


async def _serve(settings: RuntimeSettings, shared: SharedSettings) -> None:
    runtime = await start_runtime(settings, shared)
    log.info("runtime.listening", address=runtime.address, engines=list(settings.engines))
    await stop_requested()
    log.info("runtime.stopping", grace_s=settings.drain_grace_s)
    await runtime.stop()


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    configure_logging()
    try:
        asyncio.run(_serve(RuntimeSettings.load(), SharedSettings.load()))
    except (SettingsError, SinkServeError, OSError) as error:
        sys.exit(f"runtime: {error}")


if __name__ == "__main__":
    main()
