"""The builder alone: `python -m builder_service`. Settings come from the environment."""

from __future__ import annotations

import structlog

from builder_service.service import BuilderHandle, start_builder
from builder_service.settings import BuilderSettings
from common.rpc.program import run_program
from common.settings import SharedSettings

log = structlog.get_logger()


async def _start(shared: SharedSettings) -> BuilderHandle:
    settings = BuilderSettings.load()
    builder = await start_builder(settings, shared)
    roots = [str(root) for root in settings.roots]
    log.info("builder.listening", address=builder.address, metrics=builder.metrics.address, source_roots=roots)
    return builder


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    run_program("builder", _start)


if __name__ == "__main__":
    main()
