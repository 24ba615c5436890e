"""Tests of other suites, to be run here with other fixtures."""

from __future__ import annotations

from collections.abc import Collection
from types import ModuleType


def public_names(suite: ModuleType, *, but: Collection[str]) -> dict[str, object]:
    """Tests, fixtures and whatever else a suite has, but for what is told otherwise here, which it must have."""
    names = {name: value for name, value in vars(suite).items() if not name.startswith("_")}
    missing = set(but) - names.keys()
    assert not missing, f"{suite.__name__} has no {missing} any more"
    return {name: value for name, value in names.items() if name not in but}
