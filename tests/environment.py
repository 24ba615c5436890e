"""What tests take from the environment: where programs are, and SINKSERVE_TEST_*. Nothing that changes a result."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

_OURS, _OF_TESTS = "SINKSERVE_", "SINKSERVE_TEST_"
_PROXY = "_PROXY"
_OF_LIBRARIES = ("AWS_", "AZURE_", "GOOGLE_", "HF_", "HUGGINGFACE_", "TRANSFORMERS_", "XDG_")
_USERS = "SINKSERVE_TEST_USERS_ENVIRONMENT"
_CACHES = (".cache", ".config")


def isolate() -> None:
    """Forget what a user has set; HOME is an empty folder from now on, which is gone at the end.

    Called before anything of the product is imported. Child processes inherit it, other workers of the run too.
    """
    if _USERS in os.environ:
        return
    users = {name: os.environ.pop(name) for name in tuple(os.environ) if _changes_results(name)}
    home = tempfile.mkdtemp(prefix="sinkserve-tests-home-")
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    os.environ[_USERS] = json.dumps(users | {"HOME": os.environ.get("HOME", "")})
    os.environ["HOME"] = home
    # Else every process that a test starts would compile all of the product again, which is most of what it does.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    # Nor look through all that is installed for plugins of pydantic's.
    os.environ["PYDANTIC_DISABLE_PLUGINS"] = "true"
    # Threads of a small product spin until the last is done, which takes long where others are at work too.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    # Many services start at once, here and in other processes; tests about metrics say where they want them.
    os.environ["SINKSERVE_BUILDER_ADMIN_LISTEN"] = os.environ["SINKSERVE_RUNTIME_ADMIN_LISTEN"] = "127.0.0.1:0"
    os.environ["SINKSERVE_BUILDER_METRICS_LISTEN"] = os.environ["SINKSERVE_RUNTIME_METRICS_LISTEN"] = ""


def written_at_home() -> list[str]:
    """What tests that name no home of their own have left in the user's, caches of other programs aside."""
    return sorted(path.name for path in Path(os.environ["HOME"]).iterdir() if path.name not in _CACHES)


def users_environment() -> dict[str, str]:
    """The environment as the user has it: for what installs programs that tests need."""
    users: dict[str, str] = json.loads(os.environ[_USERS])
    return os.environ | users


def _changes_results(name: str) -> bool:
    ours = name.startswith(_OURS) and not name.startswith(_OF_TESTS)
    return ours or name.upper().endswith(_PROXY) or name.startswith(_OF_LIBRARIES)
