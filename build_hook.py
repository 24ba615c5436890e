"""What an installation has and the repository has not: the stubs, and attention's operator where C can be compiled."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

sys.path.insert(0, str(Path(__file__).parent))  # nothing is installed yet

from common.engine.kernel.compile import ZIG, compile_library, compiler
from protos.generate import generate


class CustomBuildHook(BuildHookInterface):  # type: ignore[type-arg]  # hatchling's config type is private
    """Makes both part of every wheel."""

    def dependencies(self) -> list[str]:
        """Zig's compiler, where there is no other."""
        return [] if compiler() else [ZIG]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 - hatchling's signature
        generate(Path(self.root))
        if why := compile_library(Path(self.root) / "common" / "engine" / "kernel"):
            self.app.display_warning(f"8-bit keys and values are served without the operator made for them: {why}")
            return
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data.update(pure_python=False, tag=f"py3-none-{platform}")
