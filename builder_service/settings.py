"""Settings of the builder: SINKSERVE_BUILDER_*."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from common.settings import CommaSeparated, HostPort, Settings

_LOOPBACK = ("127.", "localhost", "[::1]")


class BuilderSettings(Settings):
    """What the builder can be told."""

    model_config = SettingsConfigDict(env_prefix="SINKSERVE_BUILDER_")

    listen: HostPort = "127.0.0.1:50061"
    """Where it serves gRPC."""
    source_roots: Annotated[tuple[Path, ...] | None, *CommaSeparated] = None
    """Folders, separated by commas, under which checkpoints must lie once links are followed.

    Unset: the working directory, home and the Hugging Face cache if `listen` is a loopback address, else none.
    """
    concurrency: Annotated[int, Field(ge=1, le=64)] = 1
    """Builds that run at once."""
    stop_grace_s: Annotated[float, Field(ge=0)] = 5.0
    """How long calls may go on after the builder was asked to stop. Running builds go back into the queue."""

    @property
    def roots(self) -> tuple[Path, ...]:
        """The source roots that count, with links resolved."""
        if self.source_roots is not None:
            return tuple(root.expanduser().resolve() for root in self.source_roots)
        if not self.listen.startswith(_LOOPBACK):
            return ()
        hub = os.environ.get("HF_HOME", "~/.cache/huggingface")
        return tuple(path.expanduser().resolve() for path in (Path.cwd(), Path.home(), Path(hub)))
