"""Bodies of requests: read by field, and what is wrong or not supported is refused by its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from sinkserve.client import GenerationOptions
from sinkserve.web.errors import WebError

B = TypeVar("B", bound="Body")
MOST = (1 << 31) - 1
"""What a count can be on the wire."""
_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
_TEXT_PARTS = ("text", "input_text", "output_text")


class Body(BaseModel):
    """Fields that are taken; null is as left out, anything else is refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @classmethod
    def parse(cls, given: Mapping[str, Any], where: str = "") -> Self:
        """Raises WebError that names the field."""
        try:
            return cls.model_validate({name: value for name, value in given.items() if value is not None})
        except ValidationError as error:
            raise _refusal(error, where) from None


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


OneOrMore = BeforeValidator(_listed)
"""Of a list of texts: one alone is such a list."""


class Sampling(Body):
    """How to generate, as far as both interfaces call it alike; the last three are ours."""

    model: str = ""
    temperature: Annotated[float | None, Field(ge=0, le=2)] = None
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    stream: bool = False
    metadata: Annotated[dict[str, str], Field(max_length=16)] = {}
    parallel_tool_calls: bool = True
    tools: list[dict[str, Any]] | None = None
    tool_choice: Any = None
    service_tier: Literal["auto", "default"] = "auto"
    safety_identifier: str = ""
    prompt_cache_key: str = ""
    user: str = ""
    top_k: Annotated[int | None, Field(ge=0, le=MOST)] = None
    min_p: Annotated[float | None, Field(ge=0, le=1)] = None
    repetition_penalty: Annotated[float | None, Field(gt=0, le=10)] = None

    def sampling(self, more: Mapping[str, Any]) -> GenerationOptions:
        """Options of a turn: these, and `more`; what is None is left out."""
        own = {name: getattr(self, name) for name in _SAMPLING}
        given: Any = {name: value for name, value in {**own, **more}.items() if value is not None}
        options: GenerationOptions = given
        return options


def text_of(content: object, where: str) -> str:
    """The text of a message: a string, or parts that are text. Raises WebError for other parts, by their type."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise WebError(400, f"{where} has to be a text or a list of parts", "invalid_type", where)
    return "".join(_text_of_part(part, f"{where}[{index}]") for index, part in enumerate(content))


def _text_of_part(part: object, where: str) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(part, dict) or kind not in _TEXT_PARTS:
        raise WebError(400, f"{where}: parts of type {kind!r} are not supported, text is", "unsupported_value", where)
    text = part.get("text")
    if not isinstance(text, str):
        raise WebError(400, f"{where}.text has to be a text", "invalid_type", f"{where}.text")
    return text


def _refusal(error: ValidationError, where: str) -> WebError:
    wrong = error.errors(include_url=False, include_context=False)[0]
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in wrong["loc"]).lstrip(".")
    param = f"{where}.{path}" if where and path else where or path
    if wrong["type"] == "extra_forbidden":
        return WebError(400, f"{param} is not supported here", "unsupported_parameter", param)
    shown = repr(wrong["input"])[:100]
    return WebError(400, f"{param}: {wrong['msg']}; it is {shown}", "invalid_value", param)
