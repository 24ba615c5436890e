"""Manifests with no more in them than a test of text needs."""

from typing import Any

from common.manifest import Manifest, TextModel, TurnTemplate


def text_manifest(template: TurnTemplate | None, *end_token_ids: int) -> Manifest:
    """Name, version, template and end tokens; everything else is missing."""
    partial: Any = Manifest.model_construct
    text = TextModel(template=template) if template else None
    return Manifest.model_validate(partial(name="demo", version=3, text=text, end_token_ids=end_token_ids))
