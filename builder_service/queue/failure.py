"""An error as data: in a build's row, and in a message from its child process."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict

from common import errors
from common.errors import FieldViolation, Reason, SinkServeError


class Failure(BaseModel):
    """Everything of a SinkServeError, as data."""

    model_config = ConfigDict(frozen=True)

    kind: str
    """Name of the class in `common.errors`."""
    reason: Reason
    message: str
    violations: tuple[FieldViolation, ...] = ()
    metadata: dict[str, str] = {}

    @classmethod
    def of(cls, error: SinkServeError) -> Self:
        """The data of an error."""
        return cls(
            kind=type(error).__name__,
            reason=error.reason,
            message=error.message,
            violations=error.violations,
            metadata=error.metadata,
        )

    def error(self) -> SinkServeError:
        """The error again."""
        kind: type[SinkServeError] = getattr(errors, self.kind)
        error = kind(self.reason, self.message, violations=self.violations)
        error.metadata = dict(self.metadata)
        return error
