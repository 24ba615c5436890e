"""Turns what the hub's client raises into errors that a person can act on. Importing this imports huggingface_hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from builder_service.checkpoint.files import FIELD
from builder_service.sources.uri import Repository
from common.errors import FailedPrecondition, NotFound, Reason, ResourceExhausted, SinkServeError, Unavailable

_TOKEN = "SINKSERVE_BUILDER_HUB_TOKEN"  # noqa: S105 - the setting's name
_OFFLINE = "SINKSERVE_BUILDER_HUB_OFFLINE"
_UNAUTHORIZED, _FORBIDDEN = 401, 403
_REASON = Reason.SOURCE_NOT_FOUND


@contextmanager
def translated_errors(place: Repository, endpoint: str, cache: Path) -> Iterator[None]:
    """Turn what the client raises into SinkServeError; a full disk is left to the caller, who knows the stage.

    Only the status of an HTTP error is shown: its text can hold signed URLs.
    """
    try:
        yield
    except (SinkServeError, MemoryError):
        raise
    except HfHubHTTPError as error:
        raise _refused(error, place, endpoint) from None
    except PermissionError as error:
        message = f"the Hugging Face cache at {cache} cannot be written: {error}; HF_HOME names another"
        raise FailedPrecondition(_REASON, message, folder=cache) from None
    except Exception as error:
        if "no space left" in str(error).lower() and not isinstance(error, OSError):
            raise ResourceExhausted(Reason.OUT_OF_DISK, f"the disk of {cache} is full: {error}", folder=cache) from None
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise _unreachable(error, place, endpoint) from None


def not_in_cache(place: Repository, cache: Path) -> FailedPrecondition:
    """The error for a file that is not in the cache when downloads are off."""
    revision = f" --revision {place.revision}" if place.revision else ""
    message = (
        f"{FIELD}: {place} is not whole in {cache}, and the builder is offline ({_OFFLINE} or HF_HUB_OFFLINE); where "
        f"there is a network, `hf download {place.name}{revision}` fills such a cache"
    )
    return FailedPrecondition(_REASON, message, field=FIELD, uri=place, folder=cache)


def strange(endpoint: str, what: str) -> FailedPrecondition:
    """The error for an unexpected answer of the hub."""
    return FailedPrecondition(_REASON, f"{FIELD}: the hub at {endpoint} {what}", field=FIELD, endpoint=endpoint)


def _refused(error: HfHubHTTPError, place: Repository, endpoint: str) -> SinkServeError:
    page, status = f"{endpoint}/{place.name}", error.response.status_code
    if isinstance(error, RevisionNotFoundError):
        message = f"{FIELD}: {page} has no revision {place.revision!r}"
    elif isinstance(error, GatedRepoError):
        message = f"{FIELD}: {page} is gated: ask for access there, and set {_TOKEN} to a token of that account"
        return FailedPrecondition(_REASON, message, field=FIELD, uri=place)
    elif isinstance(error, RepositoryNotFoundError) or status in (_UNAUTHORIZED, _FORBIDDEN):
        message = f"{FIELD}: {page} does not exist, or is private and {_TOKEN} is no token that may read it"
    else:
        return Unavailable(_REASON, f"{FIELD}: {page}: the hub answers {status}; try again", field=FIELD, uri=place)
    return NotFound(_REASON, message, field=FIELD, uri=place)


def _unreachable(error: Exception, place: Repository, endpoint: str) -> Unavailable:
    cause = error.__cause__ or error
    message = (
        f"{FIELD}: {place} could not be had from {endpoint}: {type(cause).__name__}: {str(cause).partition('?')[0]}; "
        f"what was downloaded before is used with {_OFFLINE}=true"
    )
    return Unavailable(_REASON, message, field=FIELD, uri=place)
