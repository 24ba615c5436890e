"""Several builders on one database, killed while clients ask, watch and look. Long: `bench/builder/crowd.py`."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.db.database import connect
from common.db.schema import upgrade
from tests.nightly import examples, one_in
from tests.servers.databases import KINDS, new_database_url
from tests.service.replicas.crowd import Crowd


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", one_in(len(KINDS), reversed(KINDS)))
async def test_every_build_ends_once_and_whole_whatever_dies(kind: str, tmp_path: Path) -> None:
    with new_database_url(kind, tmp_path) as url:
        database = connect(url)
        upgrade(database)
        database.close()
        crowd = Crowd(tmp_path, url, builds=examples(4), keys=examples(2), kills=examples(2))
        await crowd.run()
    assert crowd.killed
    assert crowd.engines_seen
