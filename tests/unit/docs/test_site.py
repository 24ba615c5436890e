"""What `make docs` builds from: every page has its place in the site, and the reference has everything on the wire."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from docs.site import pages
from docs.site.proto_pages import proto_pages

DECISION = re.compile(r"docs/decisions/\w+/")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site") / "pages"
    pages.write(out)
    return out


def listed(entry: Any) -> Iterator[str]:
    """Pages of a navigation: lists and tables of them, with pages at the ends."""
    if isinstance(entry, str):
        yield entry
    else:
        for part in entry.values() if isinstance(entry, dict) else entry:
            yield from listed(part)


def test_every_page_but_single_decisions_is_in_the_navigation(site: Path) -> None:
    config = tomllib.loads((site.parent / "zensical.toml").read_text())
    written = {str(path.relative_to(site)) for path in site.rglob("*.md")}
    assert {page for page in written if not DECISION.match(page)} == set(listed(config["project"]["nav"]))


def test_links_to_files_and_protos_lead_to_what_the_site_has(site: Path) -> None:
    clients = (site / "docs" / "use" / "clients.md").read_text()
    assert "(../../reference/engine.v1.md)" in clients
    assert (site / "docs" / "pictures" / "terminal.svg").is_file()


def test_a_link_that_leads_nowhere_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text("[gone](gone.md)")
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    monkeypatch.setattr(pages, "sources", lambda: [page])
    with pytest.raises(FileNotFoundError, match=r"page\.md links to gone\.md"):
        pages.write(tmp_path / "out" / "pages")


@pytest.mark.parametrize("proto", sorted((pages.ROOT / "protos" / "sinkserve").rglob("*.proto")), ids=lambda p: p.stem)
def test_the_reference_has_every_name_of_a_proto(proto: Path) -> None:
    page = proto_pages()[".".join(proto.parent.parts[-2:])]
    source = re.sub(r"//.*", "", proto.read_text())
    names = re.findall(r"^ *(?:service|rpc|message|enum) (\w+)", source, re.MULTILINE)
    fields = re.findall(r"(\w+) = \d+[;\[ ]", source)
    assert [name for name in names if not re.search(rf"^##.*\b{name} {{", page, re.MULTILINE)] == []
    assert [field for field in fields if f"| `{field}` |" not in page] == []


def test_comments_and_types_are_told() -> None:
    page = proto_pages()["runtime.v1"]
    assert "stream of [ConverseRequest](runtime.v1.md#sinkserve.runtime.v1.ConverseRequest)" in page
    assert "One stream on one session." in page
    assert "buf:lint" not in page
    assert "map of string to string" in page
