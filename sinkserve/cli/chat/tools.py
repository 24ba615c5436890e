"""`--tools FILE` of `chat`: what replies may call. Nothing here calls it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sinkserve.cli.terminal.failures import WRONG, Failure
from sinkserve.client import Tool

_HINT = 'a JSON list of tools, each {"name": ..., "description": ..., "parameters": JSON schema}'


def read_tools(path: Path | None) -> list[Tool] | None:
    """Tools of a JSON file, also in the form that OpenAI's clients have them, if one is given. Raises Failure."""
    if path is None:
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Failure(f"--tools: {path} cannot be read: {error.strerror}", code=WRONG) from None
    except (ValueError, RecursionError) as error:
        raise Failure(f"--tools: {path} is no JSON: {error}", hint=f"it has to be {_HINT}", code=WRONG) from None
    if not isinstance(found, list):
        raise Failure(f"--tools: {path} is no list", hint=f"it has to be {_HINT}", code=WRONG)
    return [_tool(path, index, item) for index, item in enumerate(found)]


def _tool(path: Path, index: int, item: Any) -> Tool:  # noqa: ANN401 - any JSON
    said = item.get("function", item) if isinstance(item, dict) else None
    if not isinstance(said, dict) or not isinstance(said.get("name"), str):
        raise Failure(f"--tools: entry {index} of {path} has no name", hint=f"it has to be {_HINT}", code=WRONG)
    description, parameters = said.get("description", ""), said.get("parameters", {})
    if not isinstance(description, str) or not isinstance(parameters, dict):
        what = f"--tools: of {said['name']} in {path}, description has to be a text and parameters a JSON schema"
        raise Failure(what, code=WRONG)
    return Tool(name=said["name"], description=description, parameters=parameters)
