"""Checkpoints from the Hugging Face hub, in the user's own Hugging Face cache.

The cache is shared with other tools: what they have downloaded is used, and they use what is downloaded here. A file
gets its name in the cache when it is complete, so a partial file is never used. A broken download resumes where it
stopped, and the complete files of a process that died are kept. Importing this imports huggingface_hub.

Source: https://huggingface.co/docs/huggingface_hub, "Understand caching", "Download files".
"""

from __future__ import annotations

import glob
import logging
import re
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils.tqdm import tqdm

from builder_service.checkpoint.adapter.adapter import adapter_files
from builder_service.machine.memory import free_disk_bytes
from builder_service.sources.file_filter import SMALL, check_room, gguf_files, small_files, weight_files
from builder_service.sources.folder import SourceFile
from builder_service.sources.hub_errors import not_in_cache, strange, translated_errors
from builder_service.sources.stall import unless_it_stalls
from builder_service.sources.uri import Remote, Repository
from common.errors import DataLoss, NotFound, Reason

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PATIENCE_S = 30.0
_ABANDONED_S = 3600.0
_AT_ONCE = 4


def _ignore(_done: float) -> None:
    pass


@dataclass(frozen=True)
class Snapshot:
    """The files of a repository at one commit."""

    folder: Path
    commit: str


@dataclass(frozen=True)
class _Listing:
    """A commit and its files, size in bytes by name."""

    commit: str
    sizes: Mapping[str, int]


class Hub:
    """Access to the hub: with the builder's own token if it has one, else with what huggingface_hub finds."""

    def __init__(self, remote: Remote) -> None:
        logging.getLogger("huggingface_hub").setLevel(
            logging.ERROR
        )  # its warnings hold signed URLs, and a build's log is not for them
        self._remote = remote
        self._endpoint = remote.hub_endpoint or constants.ENDPOINT
        self._token = remote.hub_token.get_secret_value() if remote.hub_token else None
        self._offline = remote.hub_offline or constants.HF_HUB_OFFLINE
        self._cache = Path(constants.HF_HUB_CACHE).expanduser()

    def fetch(
        self,
        place: Repository,
        log: Callable[[str], None],
        progress: Callable[[float], None] = _ignore,
        *,
        weights: bool = True,
    ) -> Snapshot:
        """Fetch the files that a build reads; without `weights`, only the small files beside them, but all of a GGUF,
        which has none, and of an adapter.

        Raises NotFound and FailedPrecondition (SOURCE_NOT_FOUND), Unavailable if the hub does not answer,
        InvalidArgument for what is not allowed or in another format, ResourceExhausted (OUT_OF_DISK).
        """
        self._remote.check_allowed(place)
        with translated_errors(place, self._endpoint, self._cache):
            if self._offline:
                return self._cached(place)
            fetch = partial(self._downloaded, place, log, progress, weights=weights)
            return unless_it_stalls(fetch, partial(self._received, place), self._remote.hub_timeout_s)

    def _received(self, place: Repository) -> tuple[int, ...]:
        """What changes when bytes arrive: sizes of the files of a repository in the cache, whole and partial."""
        blobs = self._cache / repo_folder_name(repo_id=place.name, repo_type="model") / "blobs"
        return tuple(sorted(size for path in blobs.glob("*") if (size := _size(path)) is not None))

    def _downloaded(
        self, place: Repository, log: Callable[[str], None], progress: Callable[[float], None], *, weights: bool
    ) -> Snapshot:
        listing = self._list(place)
        log(f"{place} is commit {listing.commit}")
        at_once = bool(place.file) or place.adapter
        small = () if at_once else small_files(listing.sizes, str(place))
        folder = self._snapshot(place, listing.commit, small)
        large = self._large_files(place, listing.sizes, folder, listing.commit)
        if weights or at_once:
            self._make_room(place, listing, folder, large)
            self._snapshot(place, listing.commit, (*small, *large), _Counter(_total(listing, folder, large), progress))
            progress(1.0)
        return Snapshot(folder, listing.commit)

    def _large_files(self, place: Repository, names: Collection[str], folder: Path, commit: str) -> tuple[str, ...]:
        if place.file:
            return gguf_files(names, place.file, str(place))
        if place.adapter:
            return adapter_files(names, str(place), _get_there(place, commit))
        return weight_files(names, folder, str(place), _get_there(place, commit))

    def _list(self, place: Repository) -> _Listing:
        info = HfApi(endpoint=self._endpoint, token=self._token).model_info(
            place.name, revision=place.revision or None, files_metadata=True, timeout=_PATIENCE_S
        )
        if info.id != place.name:  # renamed: the hub leads on to where it is now, as a link does
            self._remote.check_allowed(replace(place, name=info.id))
        if not _COMMIT.fullmatch(info.sha or ""):
            raise strange(self._endpoint, f"says that {place} is commit {info.sha!r}")
        return _Listing(str(info.sha), {file.rfilename: file.size or 0 for file in info.siblings or ()})

    def _snapshot(self, place: Repository, commit: str, names: Sequence[str], counter: _Counter | None = None) -> Path:
        """The folder of a commit, with these files in it.

        The branch is passed on, so that the cache remembers its commit.
        """
        folder = self._ask(place, place.revision or None, names, counter)
        if folder.name != commit:  # the branch has moved meanwhile
            folder = self._ask(place, commit, names, counter)
        if missing := [name for name in names if not (folder / name).exists()]:
            raise strange(self._endpoint, f"did not give {missing[0]} of {place}")
        self._check_inside(folder, names)
        return folder

    def _ask(
        self, place: Repository, revision: str | None, names: Sequence[str], counter: _Counter | None = None
    ) -> Path:
        found = snapshot_download(
            place.name,
            revision=revision,
            cache_dir=self._cache,
            allow_patterns=[glob.escape(name) for name in names],
            endpoint=self._endpoint,
            token=self._token,
            local_files_only=self._offline,
            max_workers=_AT_ONCE,
            tqdm_class=_bar(counter or _Counter(0, _ignore)),
        )
        return Path(found)

    def _cached(self, place: Repository) -> Snapshot:
        """The files that were downloaded before, by any tool."""
        try:
            folder = self._ask(place, place.revision or None, SMALL)
            names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.exists()}
            small = () if place.file or place.adapter else small_files(names, str(place))
            large = self._large_files(place, names, folder, folder.name)
        except (LocalEntryNotFoundError, NotFound):
            raise not_in_cache(place, self._cache) from None
        self._check_inside(folder, (*small, *large))
        return Snapshot(folder, folder.name)

    def _make_room(self, place: Repository, listing: _Listing, folder: Path, names: Sequence[str]) -> None:
        """Remove what interrupted downloads of this repository have left, and check that the rest fits on the disk."""
        for left in (folder.parent.parent / "blobs").glob("*.incomplete"):
            if time.time() - left.stat().st_mtime > _ABANDONED_S:
                left.unlink(missing_ok=True)
        folder.mkdir(parents=True, exist_ok=True)  # of a GGUF, nothing has been fetched yet
        check_room(_total(listing, folder, names), free_disk_bytes(folder), str(place), self._cache)

    def _check_inside(self, folder: Path, names: Sequence[str]) -> None:
        cache = self._cache.resolve()
        for name in names:
            if not (folder / name).resolve().is_relative_to(cache):
                raise strange(self._endpoint, f"gave a {name} that leads out of {cache}")


def check_digests(files: Sequence[SourceFile]) -> None:
    """Raise DataLoss (CHECKPOINT_INVALID) for a file of the cache that does not have the digest it is named after."""
    for file in files:
        named = file.path.readlink().name if file.path.is_symlink() else ""
        if _SHA256.fullmatch(named) and file.digest != f"sha256:{named}":
            message = (
                f"{file.path.name} in the Hugging Face cache is damaged; remove {file.path.resolve()}, build again"
            )
            raise DataLoss(Reason.CHECKPOINT_INVALID, message, file=file.path.name)


def _size(path: Path) -> int | None:
    """Bytes of a file; None if it is gone: a partial one gets another name."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def _total(listing: _Listing, folder: Path, names: Sequence[str]) -> int:
    return sum(listing.sizes[name] for name in names if not (folder / name).exists())


def _get_there(place: Repository, commit: str) -> str:
    folder = place.name.rpartition("/")[2]
    return f"hf download {place.name} --revision {commit} --local-dir {folder} && cd {folder}"


class _Counter:
    """Counts received bytes and reports their share of `total`; several threads call it."""

    def __init__(self, total: int, progress: Callable[[float], None]) -> None:
        self._total = total
        self._progress = progress
        self._most = 0
        self._lock = threading.Lock()

    def reach(self, size_bytes: int) -> None:
        with self._lock:
            if self._total and size_bytes > self._most:
                self._most = size_bytes
                self._progress(min(1.0, size_bytes / self._total))


def _bar(counter: _Counter) -> type[tqdm]:
    """A class that huggingface_hub uses as its progress bar: it shows nothing, and passes byte counts to `counter`."""

    class Bar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - as the base has it
            self._size_bytes = int(kwargs.get("initial") or 0)
            self._counts = kwargs.get("unit") == "B"
            super().__init__(*args, **{**kwargs, "disable": True})  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> None:
            if self._counts:
                self._size_bytes += int(n or 0)
                counter.reach(self._size_bytes)
            super().update(n)

    return Bar
