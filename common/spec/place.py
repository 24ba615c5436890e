"""Where something is, as a text in a spec."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from common.controls import is_name


def _check_controls(value: str) -> str:
    """A place has a name, which control characters are not part of; a file system takes no NUL."""
    if not is_name(value):
        raise PydanticCustomError("controls", "input should have no control characters")
    return value


Place = Annotated[str, AfterValidator(_check_controls)]
