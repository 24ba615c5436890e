"""A measurement as a document that other programs read, and as files beside its plot."""

from __future__ import annotations

import json
import math
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any


def document(measured: object) -> Any:  # noqa: ANN401 - JSON
    """Dataclasses as objects, their properties included; what is not a number as null."""
    if is_dataclass(measured):
        names = [field.name for field in fields(measured)]
        names += [name for name, value in vars(type(measured)).items() if isinstance(value, property)]
        return {name: document(getattr(measured, name)) for name in names}
    if isinstance(measured, dict):
        return {key: document(value) for key, value in measured.items()}
    if isinstance(measured, (list, tuple)):
        return [document(value) for value in measured]
    return None if isinstance(measured, float) and not math.isfinite(measured) else measured


def dump(measured: object) -> str:
    """The document as text."""
    return json.dumps(document(measured), indent=1, ensure_ascii=False) + "\n"


def write_document(measured: object, folder: Path, name: str) -> Path:
    """Write `folder`/NAME.json, making the folder; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(dump(measured), encoding="utf-8")
    return path
