"""What goes wrong with artifacts and registries: for the person who moves engines, never on the wire."""

from __future__ import annotations


class ArtifactError(Exception):
    """An artifact cannot be moved; the text says which and why, `hint` what to do."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class NotAnEngine(ArtifactError):
    """What is there is no engine of SinkServe, or not a whole one, or damaged."""

    def __init__(self, why: str) -> None:
        again = "export it again, and copy it whole: the digests of its files say when it is"
        super().__init__(f"this is no engine that could be imported: {why}", hint=again)


class RegistryNameError(ArtifactError):
    """A name that no artifact of a registry can have."""


class NotInRegistry(ArtifactError):
    """The registry has nothing of that name."""


class RegistryRefused(ArtifactError):
    """The registry answered, and does not do it."""


class RegistrySilent(ArtifactError):
    """The registry cannot be reached, or stopped answering."""
