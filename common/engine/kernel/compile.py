"""Compiles the operator where SinkServe is installed: by the system's C compiler, or by Zig's, a Python package.

Imports nothing of SinkServe: it runs before that is installed, as part of the build hook.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

FOLDER = Path(__file__).parent
LIBRARY = FOLDER / "window_attention.so"
SOURCES = ("window_attention.c", "operator.c")
ZIG = "ziglang>=0.15,<0.18"
"""What to install where there is no compiler."""
FLAGS = (
    *("-std=gnu11", "-O3", "-fPIC", "-shared", "-s", "-fvisibility=hidden", "-Wno-psabi"),
    # A product and a sum may be one instruction; sums stay in order, so that equal inputs give equal bits.
    *("-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"),
)
LONGEST_S = 300


def compiler() -> list[str] | None:
    """The command that compiles C: CC, cc, gcc, clang or Zig's; None if there is none."""
    if named := os.environ.get("CC"):
        return shlex.split(named)
    found = next((path for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)
    if found:
        return [found]
    return [sys.executable, "-m", "ziglang", "cc"] if find_spec("ziglang") else None


def compile_library(folder: Path = FOLDER) -> str:
    """Make the library beside the sources in `folder`; returns why there is none, or nothing.

    SinkServe works without it, so nothing is raised. An old library is gone in any case.
    """
    library = folder / LIBRARY.name
    library.unlink(missing_ok=True)
    command = compiler()
    if command is None:
        return "there is no C compiler"
    partial = library.with_suffix(f".{os.getpid()}.partial")
    sources = [str(folder / source) for source in SOURCES]
    try:
        done = subprocess.run(  # noqa: S603 - the compiler that the installing user has or names
            [*command, *FLAGS, "-o", str(partial), *sources, "-lm"],
            capture_output=True,
            text=True,
            timeout=LONGEST_S,
            check=False,
        )
        if done.returncode:
            return f"{shlex.join(command)} failed: {done.stderr.strip()[-500:] or done.returncode}"
        partial.replace(library)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{shlex.join(command)} failed: {error}"
    finally:
        partial.unlink(missing_ok=True)
    return ""


if __name__ == "__main__":
    sys.exit(compile_library() or None)
