"""`sinkserve engines export` and `import`: engines between catalogs, straight out of the database and the store.

To and from folders and registries.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape

from common.artifact.errors import ArtifactError, NotInRegistry, RegistryNameError, RegistrySilent
from common.artifact.oci_layout import OciLayout
from common.artifact.registry.link import RegistryLink
from common.artifact.registry.name import SCHEME, RegistryName
from common.artifact.registry.pull import pulled
from common.artifact.registry.repository import RegistryRepository
from common.artifact.registry.settings import RegistrySettings
from common.artifact.transfer import export_engine, import_engine
from common.auth.principal import LOCAL_PRINCIPAL
from common.catalog.catalog import Catalog
from common.controls import harmless
from common.db.database import Database
from common.db.schema import open_database
from common.private import make_private_folder
from common.settings import SettingsError, SharedSettings, read_config
from common.store.blob_store import BlobStore, open_store
from sinkserve.cli.terminal import console
from sinkserve.cli.terminal.failures import FAILED, NOT_FOUND, UNREACHABLE, WRONG, Failure, explained

Given = Mapping[str, Any]
"""Settings of registries that the command was called with; empty ones were not."""


@dataclass(frozen=True)
class _Opened:
    settings: SharedSettings
    database: Database
    store: BlobStore
    catalog: Catalog


def export_to(reference: str, where: str, config: Path | None, given: Given) -> None:
    """Write an engine to a folder, or to a registry if `where` is oci://..."""
    with _opened(config) as here:
        engine = here.catalog.resolve(reference)
        size = console.size(engine.manifest.size_bytes)
        if where.startswith(SCHEME):
            with RegistryLink(RegistryName.parse(where), _registry(given), "pull,push") as link:
                repository = RegistryRepository(link)
                export_engine(engine, here.store, repository)
                where = escape(str(repository.name))
                console.out.print(f"{escape(engine.reference)}, {size}, is {where}, {repository.digest}")
            return
        layout = OciLayout(Path(where))
        layout.create()
        try:
            export_engine(engine, here.store, layout)
        except OSError as error:
            raise Failure(f"cannot write to {where}: {error.strerror}; what is there of it is not whole") from None
        console.out.print(f"{escape(engine.reference)}, {size}, is in {escape(where)}, in the layout of OCI images")


def import_from(where: str, owner: str, config: Path | None, given: Given) -> None:
    """Publish the engine in a folder, or in a registry if `where` is oci://..."""
    with _opened(config) as here:
        arriving = here.settings.home / "imports"
        try:
            with _layout(where, arriving, given) as layout:
                engine = import_engine(layout, here.database, here.catalog, here.store, owner or LOCAL_PRINCIPAL)
        except OSError as error:
            what = f"cannot write to the store, or to {arriving}: {error.strerror}"
            raise Failure(what, hint="what has arrived is kept; nothing was published") from None
        signed = "signed" if engine.signature else "not signed"
        console.out.print(f"{escape(where)} is {escape(engine.reference)} here, {signed}")


@contextmanager
def _layout(where: str, arriving: Path, given: Given) -> Iterator[OciLayout]:
    if not where.startswith(SCHEME):
        yield OciLayout(Path(where))
        return
    with RegistryLink(RegistryName.parse(where), _registry(given), "pull") as link:
        make_private_folder(arriving)
        with pulled(RegistryRepository(link), arriving) as layout:
            yield layout


def _registry(given: Given) -> RegistrySettings:
    """As the environment says, and over that the options of the command."""
    try:
        settings = RegistrySettings.load()
    except SettingsError as error:
        raise Failure(str(error), code=WRONG) from None
    return settings.model_copy(update={name: value for name, value in given.items() if value})


@contextmanager
def _opened(config: Path | None) -> Iterator[_Opened]:
    with explained(), _artifacts_explained():
        try:
            settings = SharedSettings.load(read_config(config)["shared"])
        except SettingsError as error:
            raise Failure(str(error), code=WRONG) from None
        database = open_database(settings.database, settings.database_timeout_s)
        try:
            store = open_store(settings.store, settings.store_timeout_s)
            yield _Opened(settings, database, store, Catalog(database, store))
        finally:
            database.close()


@contextmanager
def _artifacts_explained() -> Iterator[None]:
    codes = {NotInRegistry: NOT_FOUND, RegistrySilent: UNREACHABLE, RegistryNameError: WRONG}
    try:
        yield
    except ArtifactError as error:
        raise Failure(harmless(str(error)), hint=error.hint, code=codes.get(type(error), FAILED)) from None
