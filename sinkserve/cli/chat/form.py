"""What form a reply has to have, as a person says it: `--json-schema FILE` and its like, and `/form` in a chat."""

from __future__ import annotations

from pathlib import Path

from sinkserve.cli.terminal.failures import WRONG, Failure
from sinkserve.client import GenerationOptions, ResponseFormat


def read_form(json_schema: Path | None, form: str | None) -> ResponseFormat | None:
    """The form that options name, if one does; raises Failure for two, and for what is none."""
    if json_schema is not None and form is not None:
        raise Failure("give --json-schema or --form, not both: a reply has one form", code=WRONG)
    if json_schema is not None:
        return {"json_schema": _read(json_schema)}
    return None if form is None else _parsed(form, "--form")


def with_form(options: GenerationOptions, argument: str) -> GenerationOptions:
    """The options after `/form KIND WHAT`; without an argument any text will do again.

    Raises ValueError, with what to type instead.
    """
    changed = options.copy()
    if not argument.strip():
        changed.pop("response_format", None)
        return changed
    try:
        changed["response_format"] = _parsed(argument, "/form")
    except Failure as error:
        raise ValueError(str(error)) from None
    return changed


def describe_form(options: GenerationOptions) -> str:
    """What replies have to be, in words."""
    asked = options.get("response_format")
    if asked is None:
        return "any text"
    said = {"json_schema": "JSON by a schema", "regex": "a regular expression", "grammar": "a grammar"}
    return said[next(iter(asked))] if "choice" not in asked else f"one of {len(asked['choice'])} texts"


def _parsed(argument: str, command: str) -> ResponseFormat:
    kind, _, what = argument.strip().partition(" ")
    what = what.strip()
    match kind.replace("-", "_") if what else "":
        case "json_schema":
            return {"json_schema": _read(Path(what))}
        case "grammar":
            return {"grammar": _read(Path(what))}
        case "choice":
            return {"choice": what.split("|")}
        case "regex":
            return {"regex": what}
    takes = "json_schema FILE, regex TEXT, choice TEXT|TEXT or grammar FILE"
    raise Failure(f"{command} takes {takes}, and not {argument.strip()!r}", code=WRONG)


def _read(path: Path) -> str:
    try:
        return path.expanduser().read_text(encoding="utf-8")
    except OSError as error:
        raise Failure(f"{path}: {error.strerror}", code=WRONG) from None
    except UnicodeDecodeError:
        raise Failure(f"{path} is no UTF-8 text", code=WRONG) from None
