"""Where a checkpoint is: a folder, a repository of the Hugging Face hub, or a prefix in an object store, or a GGUF file
in one of these; and whether the builder may fetch it. Knows what URIs say; touches neither disk nor network.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, ConfigDict, SecretStr, field_serializer

from builder_service.checkpoint.files import FIELD, REVISION_FIELD, said_of_adapter
from builder_service.checkpoint.gguf.names import is_gguf
from common.errors import InvalidArgument, Reason
from common.spec.model_spec import Source
from common.timeouts import STORE_TIMEOUT_S

HUB = "hf"
HUB_TIMEOUT_S = 120.0  # 10 MB arrive at once, and slowly where the network is slow
OBJECT_STORES = ("s3", "gs", "az")
_NAME = r"(?![A-Za-z0-9._-]*(?:--|\.\.))[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_HUB_ROOT = re.compile(rf"hf://(?:{_NAME}(?:/(?:{_NAME})?)?)?")
_HUB_URI = re.compile(rf"hf://({_NAME}/{_NAME})((?:/{_NAME})+\.gguf)?(?:@(.*))?", re.DOTALL | re.IGNORECASE)
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(?:/[A-Za-z0-9][A-Za-z0-9._-]*)*")
_KINDS = "a path, a file:// URL, hf://ORG/REPO, or one of s3://, gs:// and az:// with bucket and prefix"


@dataclass(frozen=True)
class Folder:
    """A folder or a GGUF file, as its path is written."""

    path: Path


@dataclass(frozen=True)
class Repository:
    """A repository of the hub; `revision` is a branch, a tag or a commit, empty for the default branch."""

    name: str
    revision: str
    file: str = ""
    """The GGUF file of it that is meant; empty: the repository is a checkpoint in Hugging Face's layout."""
    adapter: bool = False
    """Whether it is a LoRA adapter that is meant."""

    @property
    def uri(self) -> str:
        """Without the revision."""
        return f"{HUB}://{self.name}" + (f"/{self.file}" if self.file else "")

    def __str__(self) -> str:
        return self.uri + (f"@{self.revision}" if self.revision else "")


@dataclass(frozen=True)
class Prefix:
    """Objects under a URL, which holds no credentials."""

    url: str
    file: str = ""
    """The GGUF file under it that is meant; empty: what is there is a checkpoint in Hugging Face's layout."""
    adapter: bool = False
    """Whether it is a LoRA adapter that is meant."""

    def __str__(self) -> str:
        return f"{self.url}/{self.file}" if self.file else self.url


Place = Folder | Repository | Prefix


class Remote(BaseModel):
    """What the builder may fetch from the hub and from object stores, and its token for the hub."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    roots: tuple[str, ...] = ()
    """URL prefixes: of the hub, of object stores."""
    hub_endpoint: str = ""
    """URL of the hub; empty: what huggingface_hub says."""
    hub_token: SecretStr | None = None
    """Token for the hub; None: what huggingface_hub finds."""
    hub_timeout_s: float = HUB_TIMEOUT_S
    """How long the hub may send nothing."""
    store_timeout_s: float = STORE_TIMEOUT_S
    """How long an object store may."""
    hub_offline: bool = False
    """Whether to use the cache only and never ask the hub."""

    @field_serializer("hub_token", when_used="json")
    def _reveal(self, token: SecretStr | None) -> str | None:
        """Write the token in plain text: the child needs it, and its order goes through a pipe only."""
        return token.get_secret_value() if token else None

    def check_allowed(self, place: Repository | Prefix) -> None:
        """Raise InvalidArgument (SOURCE_NOT_ALLOWED) naming the roots, unless the place is under one."""
        shown = str(place)
        asked = _segments(f"{HUB}://{place.name}" if isinstance(place, Repository) else str(place))
        if any(asked[: len(root)] == root for root in map(_segments, self.roots)):
            return
        allowed = ", ".join(self.roots) or f"none for {asked[0]}://; set SINKSERVE_BUILDER_SOURCE_ROOTS"
        message = f"{FIELD}: {shown} is outside the builder's source roots, which are {allowed}"
        raise InvalidArgument(Reason.SOURCE_NOT_ALLOWED, message, field=FIELD, uri=shown, roots=allowed)


def read_place(source: Source) -> Place:
    """The place that a source names; raises InvalidArgument (INVALID_SPEC) if it names none."""
    scheme = _scheme(source.uri)
    if scheme == HUB:
        return _read_repository(source)
    if source.revision:
        message = f"{REVISION_FIELD}: only {HUB}:// has revisions, and the source is {_shown(source.uri)}"
        raise InvalidArgument(Reason.INVALID_SPEC, message, field=REVISION_FIELD)
    if scheme in OBJECT_STORES:
        return _read_prefix(source.uri)
    return Folder(source_path(source.uri))


def read_adapter_place(source: Source) -> Place | None:
    """The place of the adapter that a source names; None if it names none. Raises what `read_place` does."""
    if not source.adapter:
        return None
    with said_of_adapter():
        place = read_place(Source(uri=source.adapter))
        if is_gguf(place.path.name if isinstance(place, Folder) else place.file):
            raise _bad_uri(source.adapter, "is a GGUF file; a LoRA adapter as peft saves it is needed")
        return place if isinstance(place, Folder) else replace(place, adapter=True)


def pinned(source: Source) -> str:
    """A source in one piece, with its revision."""
    return f"{source.uri}@{source.revision}" if source.revision else source.uri


def source_path(uri: str) -> Path:
    """The folder that a URI names, as it is written; raises InvalidArgument (INVALID_SPEC) if it names none."""
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise _bad_uri(uri, f"is not {_KINDS}: {error}") from None
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        path = Path(unquote(parts.path))
    elif not parts.scheme:
        path = Path(uri)
    else:
        raise _bad_uri(uri, f"is not {_KINDS}")
    if "\0" in str(path):
        raise _bad_uri(uri, "holds a zero byte")
    if not path.is_absolute():
        raise _bad_uri(uri, "is relative, and the builder cannot know to what; give the whole path")
    return path


def read_root(text: str) -> Path | str:
    """A source root: a folder with links followed, or a URL prefix. Raises ValueError for what is neither."""
    scheme = _scheme(text)
    if scheme == HUB:
        if not _HUB_ROOT.fullmatch(text):
            raise ValueError(f"{text!r} is not hf://, hf://ORG/ or hf://ORG/REPO")
        return text
    if scheme in OBJECT_STORES:
        try:
            return str(_read_prefix(text))
        except InvalidArgument as error:
            raise ValueError(error.message.removeprefix(f"{FIELD}: ")) from None
    try:
        path = source_path(text) if scheme else Path(text)
        return path.expanduser().resolve()
    except (InvalidArgument, RuntimeError):  # of ~nobody
        raise ValueError(f"{_shown(text)!r} is neither a folder nor a URL prefix with hf, s3, gs or az") from None


def _read_repository(source: Source) -> Repository:
    found = _HUB_URI.fullmatch(source.uri)
    if found is None:
        raise _bad_uri(source.uri, "is not hf://ORG/REPO or hf://ORG/REPO/FILE.gguf, with @REVISION or without")
    name, file, written = found[1], (found[2] or "")[1:], found[3]
    if written is not None and source.revision and written != source.revision:
        message = f"{REVISION_FIELD}: {source.revision!r} is not the {written!r} of {source.uri}; keep one"
        raise InvalidArgument(Reason.INVALID_SPEC, message, field=REVISION_FIELD)
    revision = source.revision if written is None else written
    if (written is not None or revision) and (not _REVISION.fullmatch(revision) or ".." in revision):
        message = f"{REVISION_FIELD}: {revision!r} is not a branch, a tag or a commit"
        raise InvalidArgument(Reason.INVALID_SPEC, message, field=REVISION_FIELD)
    return Repository(name, revision, file)


def _read_prefix(uri: str) -> Prefix:
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise _bad_uri(uri, f"is not a URL: {error}") from None
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise _bad_uri(uri, "holds more than bucket and prefix; credentials belong into the builder's environment")
    segments = [part for part in parts.path.split("/") if part]
    if not (parts.netloc and uri.isprintable()) or any(unquote(part) in (".", "..") for part in segments):
        raise _bad_uri(uri, f"is not {parts.scheme}://BUCKET/PREFIX")
    file = segments.pop() if segments and is_gguf(segments[-1]) else ""
    return Prefix("/".join((f"{parts.scheme}://{parts.netloc}", *segments)), file)


def _segments(url: str) -> tuple[str, ...]:
    scheme, _, rest = url.partition("://")
    return (scheme, *(part for part in rest.split("/") if part))


def _scheme(uri: str) -> str:
    return uri.partition("://")[0] if "://" in uri else ""


def _shown(uri: str) -> str:
    """A URI without what may be a secret."""
    return re.sub(r"//[^/@]*@", "//", uri).partition("?")[0]


def _bad_uri(uri: str, why: str) -> InvalidArgument:
    shown = _shown(uri)
    return InvalidArgument(Reason.INVALID_SPEC, f"{FIELD}: {shown!r} {why}", field=FIELD, uri=shown)
