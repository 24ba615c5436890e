"""What `sinkserve.client` promises."""

from __future__ import annotations

import inspect
import subprocess
import sys

import sinkserve.client
from sinkserve.client import Client, Conversation, Turn
from sinkserve.client.builds import Builds
from sinkserve.client.engines import Engines
from sinkserve.client.sessions import Sessions

NAMES = (
    *("Aborted", "AlreadyExists", "Cancelled", "Client", "Conversation", "DataLoss", "Delta", "Durability"),
    *("FailedPrecondition", "FieldViolation", "FinishReason", "Finished", "GenerationOptions", "Internal"),
    *("InvalidArgument", "Message", "NotFound", "OnDisconnect", "OnFull", "OutOfRange", "PermissionDenied"),
    *("ResourceExhausted", "ResponseFormat", "Retry", "SessionOptions", "SinkServeError", "Timing", "Token", "Tool"),
    *("ToolCall", "ToolCallDelta", "Turn", "Unauthenticated", "Unavailable", "Unreachable", "Usage"),
    *("WindowNotice", "tls_credentials", "token_file"),
)


def public(kind: type) -> set[str]:
    return {name for name, _ in inspect.getmembers(kind) if not name.startswith("_")}


def test_the_names_of_the_package_are_these() -> None:
    assert tuple(sinkserve.client.__all__) == NAMES
    assert all(hasattr(sinkserve.client, name) for name in NAMES)


def test_the_methods_are_these() -> None:
    assert public(Client) == {"close", "conversation"}
    methods = {"answer", "close", "error", "leave", "open", "opened", "say", "send", "session"}
    assert public(Conversation) == methods
    assert public(Builds) == {"cancel", "get", "list", "submit", "wait", "watch"}
    changes = {"cancel_turn", "create", "delete", "fork", "pin", "rewind", "unpin", "update"}
    assert public(Sessions) == changes | {"get", "list", "turn", "turns", "usage"}
    catalog = {"aliases", "collect_garbage", "delete", "delete_alias", "get", "list", "set_alias", "verify"}
    assert public(Engines) == catalog | {"load", "loaded", "refused", "unload"}
    assert public(Turn) >= {"attempt", "cancel", "done", "id", "text", "token_ids", "wait"}


def test_importing_the_client_imports_nothing_heavy() -> None:
    heavy = ("numpy", "onnx", "onnxruntime", "sqlalchemy", "transformers", "tokenizers", "pydantic_settings", "rich")
    check = f"import sys, sinkserve.client; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True).stdout == "[]\n"
