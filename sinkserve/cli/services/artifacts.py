"""`sinkserve engines export` and `import`: engines between catalogs, straight out of the database and the store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.markup import escape

from common.artifact.transfer import export_engine, import_engine
from common.auth.principal import LOCAL_PRINCIPAL
from common.catalog.catalog import Catalog
from common.db.database import Database
from common.db.schema import open_database
from common.settings import SettingsError, SharedSettings, read_config
from common.store.blob_store import BlobStore, open_store
from sinkserve.cli.terminal import console
from sinkserve.cli.terminal.failures import WRONG, Failure, explained


@dataclass(frozen=True)
class _Opened:
    database: Database
    store: BlobStore
    catalog: Catalog


def export_to(reference: str, folder: Path, config: Path | None) -> None:
    """Write an engine to a folder."""
    with _opened(config) as here:
        engine = here.catalog.resolve(reference)
        try:
            export_engine(engine, here.store, folder)
        except OSError as error:
            raise Failure(f"cannot write to {folder}: {error.strerror}; what is there of it is not whole") from None
        size = console.size(engine.manifest.size_bytes)
        console.out.print(
            f"{escape(engine.reference)}, {size}, is in {escape(str(folder))}, in the layout of OCI images"
        )


def import_from(folder: Path, owner: str, config: Path | None) -> None:
    """Publish the engine in a folder."""
    with _opened(config) as here:
        engine = import_engine(folder, here.database, here.catalog, here.store, owner or LOCAL_PRINCIPAL)
        signed = "signed" if engine.signature else "not signed"
        console.out.print(f"{escape(str(folder))} is {escape(engine.reference)} here, {signed}")


@contextmanager
def _opened(config: Path | None) -> Iterator[_Opened]:
    with explained():
        try:
            settings = SharedSettings.load(read_config(config)["shared"])
        except SettingsError as error:
            raise Failure(str(error), code=WRONG) from None
        database = open_database(settings.database, settings.database_timeout_s)
        try:
            store = open_store(settings.store, settings.store_timeout_s)
            yield _Opened(database, store, Catalog(database, store))
        finally:
            database.close()
