"""Lays out the pages of the site, under build/docs/pages: the repository's own Markdown, and the reference.

Run by `make docs`. Pages keep the places that they have in the repository, so that their links hold; what they link
to besides pages is copied beside them.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path, PurePosixPath

from docs.site.proto_pages import page_of, proto_pages

ROOT = Path(__file__).resolve().parents[2]
SITE = Path(__file__).parent
PAGES = ROOT / "build" / "docs" / "pages"
REFERENCE = PurePosixPath("reference")
PYTHON = """\
# sinkserve.client

::: sinkserve.client

::: sinkserve.client.builds.Builds
    options: {show_root_heading: true, show_root_toc_entry: true}

::: sinkserve.client.engines.Engines
    options: {show_root_heading: true, show_root_toc_entry: true}

::: sinkserve.client.sessions.Sessions
    options: {show_root_heading: true, show_root_toc_entry: true}
"""
FOLDERS = {
    PurePosixPath("docs/decisions"): PurePosixPath("docs/decisions/index.md"),
    PurePosixPath("protos"): REFERENCE / "runtime.v1.md",
}
"""Where links to folders lead."""

LINK = re.compile(r"(?<=\]\()(?P<path>[^)#:\s]+)(?=[)#])")


def sources() -> list[Path]:
    """The pages of the repository: those at its root, the demo's, and everything in docs/."""
    return [*sorted(ROOT.glob("*.md")), ROOT / "demo" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def write(pages: Path = PAGES) -> None:
    """Write all pages, in place of those that were there; raises FileNotFoundError for a link that leads nowhere."""
    shutil.rmtree(pages, ignore_errors=True)
    for source in sources():
        _write(pages / _place(PurePosixPath(source.relative_to(ROOT))), _page(source, pages))
    for package, text in proto_pages().items():
        _write(pages / REFERENCE / f"{package}.md", text)
    _write(pages / REFERENCE / "python.md", PYTHON)
    shutil.copy(SITE / "site.css", pages)
    shutil.copy(SITE / "zensical.toml", pages.parent)


def _page(source: Path, pages: Path) -> str:
    return LINK.sub(lambda link: _follow(link["path"], source, pages), source.read_text())


def _follow(link: str, page: Path, pages: Path) -> str:
    """Where a link of a page leads on the site; what is no page is copied there."""
    target = PurePosixPath((page.parent / link).resolve().relative_to(ROOT))
    if not (ROOT / target).exists():
        raise FileNotFoundError(f"{page.relative_to(ROOT)} links to {link}, which does not exist")
    if (ROOT / target).is_dir():
        target = FOLDERS[target]
    elif target.suffix == ".proto":
        target = REFERENCE / f"{page_of(Path(target))}.md"
    elif target.suffix == ".md":
        target = _place(target)
    else:
        (pages / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / target, pages / target)
    return _relative(target, _place(PurePosixPath(page.relative_to(ROOT))).parent)


def _place(page: PurePosixPath) -> PurePosixPath:
    return page.with_name("index.md") if page.name == "README.md" else page


def _relative(target: PurePosixPath, folder: PurePosixPath) -> str:
    shared = next(parent for parent in [folder, *folder.parents] if target.is_relative_to(parent))
    up = len(folder.relative_to(shared).parts)
    return "/".join([*[".."] * up, *target.relative_to(shared).parts])


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


if __name__ == "__main__":
    write()
