"""`engines export` and `import`, against a database and a store of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.db.schema import open_database
from common.store.blob_store import open_store
from tests.samples.drafts import Press
from tests.service.cli.shell import Shell


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A home with an engine, where the shell looks for one."""
    home = tmp_path / "home"
    home.mkdir()
    database = open_database(f"sqlite:///{home / 'sinkserve.db'}")
    press = Press(database, open_store(str(home / "store")), tmp_path)
    press.publish(files={"model.onnx": b"graph"})
    database.close()
    return home


async def test_an_engine_goes_to_a_folder_and_from_there_to_another_home(
    shell: Shell, published: Path, tmp_path: Path
) -> None:
    folder, there = str(tmp_path / "artifact"), tmp_path / "there.yaml"
    there.write_text(f"home: {tmp_path / 'there'}\n")
    (tmp_path / "there").mkdir()
    shell.environment["SINKSERVE_HOME"] = str(published)
    ran = await shell.run("engines", "export", "demo", folder)
    assert (ran.code, "demo@1" in ran.out) == (0, True)
    del shell.environment["SINKSERVE_HOME"]
    ran = await shell.run("engines", "import", folder, "--config", str(there))
    assert (ran.code, "is demo@1 here, not signed" in ran.out) == (0, True), ran.err


async def test_what_is_wrong_is_said(shell: Shell, published: Path, tmp_path: Path) -> None:
    shell.environment["SINKSERVE_HOME"] = str(published)
    ran = await shell.run("engines", "export", "demo", str(published))
    assert (ran.code, "is not empty" in ran.err) == (2, True)
    ran = await shell.run("engines", "export", "other", str(tmp_path / "new"))
    assert (ran.code, "other" in ran.err) == (4, True), ran.err
    ran = await shell.run("engines", "import", str(tmp_path / "nothing"))
    assert (ran.code, "this is no engine that could be imported" in ran.err) == (1, True)
