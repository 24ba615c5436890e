"""The builder alone: `python -m builder_service`. Settings come from the environment."""

from __future__ import annotations

import asyncio
import sys

import structlog

from builder_service.service import start_builder
from builder_service.settings import BuilderSettings
from common.errors import SinkServeError
from common.rpc.server import stop_requested
from common.settings import SettingsError, SharedSettings
from common.telemetry import configure_logging

log = structlog.get_logger()


async def _serve(settings: BuilderSettings, shared: SharedSettings) -> None:
    builder = await start_builder(settings, shared)
    roots = [str(root) for root in settings.roots]
    log.info("builder.listening", address=builder.address, metrics=builder.metrics.address, source_roots=roots)
    await stop_requested()
    log.info("builder.stopping")
    await builder.stop()


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    try:
        shared = SharedSettings.load()
        configure_logging(json=shared.log_format == "json")
        asyncio.run(_serve(BuilderSettings.load(), shared))
    except (SettingsError, SinkServeError, OSError) as error:
        sys.exit(f"builder: {error}")


if __name__ == "__main__":
    main()
