"""What form a reply has to have, as a client asks for it: exactly one of four. Plain data, and how large it may be."""

from __future__ import annotations

from dataclasses import dataclass, fields

from common.errors import InvalidArgument, Reason

FIELD = "turn.generation.response_format"
MOST_BYTES = {"json_schema": 64 << 10, "regex": 8 << 10, "choice": 64 << 10, "grammar": 64 << 10}
"""Of UTF-8, by form."""
MOST_CHOICES = 1000


@dataclass(frozen=True)
class ResponseFormat:
    """Exactly one is not None: a JSON schema as text, a regular expression, texts to choose from, a Lark grammar."""

    json_schema: str | None = None
    regex: str | None = None
    choice: tuple[str, ...] | None = None
    grammar: str | None = None

    @property
    def form(self) -> str:
        """Which of the four it is; empty if none is set."""
        return next((each.name for each in fields(self) if getattr(self, each.name) is not None), "")

    @property
    def size_bytes(self) -> int:
        """Of what it says, in UTF-8."""
        said = self.choice if self.choice is not None else (getattr(self, self.form or "regex") or "",)
        return sum(len(text.encode()) for text in said)

    def check(self) -> None:
        """Raise InvalidArgument (INVALID_FIELD) for none at all, an empty one, or one that is too large; cheap."""
        form = self.form
        if not form:
            raise refused("", "is not set; one of json_schema, regex, choice or grammar is needed")
        if not getattr(self, form):
            raise refused(form, "is empty")
        if self.choice is not None:
            _check_choice(self.choice)
        if (size := self.size_bytes) > MOST_BYTES[form]:
            raise refused(form, f"has {size} bytes; at most {MOST_BYTES[form]} are allowed")


def _check_choice(texts: tuple[str, ...]) -> None:
    if len(texts) > MOST_CHOICES:
        raise refused("choice", f"has {len(texts)} texts; at most {MOST_CHOICES} are allowed")
    if "" in texts:
        raise refused(f"choice.texts[{texts.index('')}]", "is empty; a reply has at least one character")


def whole_name(form: str) -> str:
    """The dotted path of a form, or of what else asked for one."""
    return form if form.startswith("turn.") else f"{FIELD}.{form}" if form else FIELD


def refused(form: str, why: str) -> InvalidArgument:
    """`why` a `form` is refused, or what else asked for one, by its whole name."""
    field = whole_name(form)
    return InvalidArgument(Reason.INVALID_FIELD, f"{field} {why}", field=field)
