from __future__ import annotations

from pathlib import Path

import pytest

from common.catalog.aliases import Alias, Aliases
from common.db.database import Database
from common.db.paging import Page, read_page
from common.errors import InvalidArgument, NotFound, Reason
from common.store.blob_store import open_store
from tests.samples.drafts import Press

PAGE = Page(1000, None, "aliases")


@pytest.fixture
def press(database: Database, tmp_path: Path) -> Press:
    return Press(database, open_store(str(tmp_path / "store")), tmp_path)


@pytest.fixture
def aliases(press: Press) -> Aliases:
    press.publish()
    press.publish()
    return Aliases(press.database)


def test_an_alias_names_a_version_and_moves(press: Press, aliases: Aliases) -> None:
    assert aliases.set("demo@1", "prod") == Alias("demo", "prod", 1)
    assert press.catalog.resolve("demo:prod").version == 1
    assert aliases.set("demo", "prod") == Alias("demo", "prod", 2)
    assert press.catalog.resolve("demo:prod").aliases == ("latest", "prod")


def test_an_alias_copies_another_as_it_is_now(press: Press, aliases: Aliases) -> None:
    aliases.set("demo@1", "staging")
    aliases.set("demo:staging", "prod")
    aliases.set("demo@2", "staging")
    assert press.catalog.resolve("demo:prod").version == 1


def test_a_name_has_so_many_aliases_and_no_more(aliases: Aliases, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.catalog.aliases.MOST_ALIASES", 2)
    for alias in ("a", "b", "a"):
        aliases.set("demo", alias)
    with pytest.raises(InvalidArgument, match="demo has 2 aliases") as caught:
        aliases.set("demo", "c")
    assert caught.value.reason is Reason.INVALID_ALIAS


def test_pages_together_are_the_list(aliases: Aliases) -> None:
    for alias in ("a", "zeta", "m"):
        aliases.set("demo@1", alias)
    for size in (1, 2, 3, 4):
        found: list[str] = []
        token = ""
        while True:
            page, token = aliases.list("demo", read_page(size, token, "aliases demo", (str,)))
            assert len(page) == size or not token
            found += [alias.alias for alias in page]
            if not token:
                break
        assert found == ["latest", "a", "m", "zeta"]


def test_latest_comes_first_and_follows_publishing(press: Press, aliases: Aliases) -> None:
    aliases.set("demo@1", "beta")
    press.publish()
    assert aliases.list("demo", PAGE)[0] == [Alias("demo", "latest", 3), Alias("demo", "beta", 1)]


@pytest.mark.parametrize("alias", ["latest", "1", "", "Prod", "a:b", "a@b", "x" * 64])
def test_what_cannot_be_an_alias_is_refused(aliases: Aliases, alias: str) -> None:
    for act in (lambda: aliases.set("demo@1", alias), lambda: aliases.delete("demo", alias)):
        with pytest.raises(InvalidArgument) as caught:
            act()
        assert caught.value.reason is Reason.INVALID_ALIAS
        assert caught.value.violations[0].field == "alias"


def test_a_deleted_alias_is_gone(press: Press, aliases: Aliases) -> None:
    aliases.set("demo@1", "prod")
    aliases.delete("demo", "prod")
    with pytest.raises(NotFound):
        press.catalog.resolve("demo:prod")
    with pytest.raises(NotFound, match="demo:prod"):
        aliases.delete("demo", "prod")


def test_an_alias_goes_with_its_version(press: Press, aliases: Aliases) -> None:
    aliases.set("demo@1", "prod")
    press.catalog.delete("demo@1")
    assert aliases.list("demo", PAGE)[0] == [Alias("demo", "latest", 2)]


def test_what_is_not_published_has_no_aliases(aliases: Aliases) -> None:
    with pytest.raises(NotFound):
        aliases.list("other", PAGE)
    with pytest.raises(NotFound):
        aliases.set("demo@9", "prod")
