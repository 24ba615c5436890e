from __future__ import annotations

import re
from urllib.parse import urljoin

from sinkserve.web.page.files import FOLDER
from tests.service.web.page.conftest import Page

MOST_BYTES = 60_000
"""Of a first load, as they are sent."""


async def test_all_that_a_first_load_asks_for_is_there_and_small(page: Page) -> None:
    first = await page.http.get("/")
    paths = sorted(set(re.findall(r'(?:href|src)="(/page/[^"]+)"', first.text)))
    answers = [first, *[await page.http.get(path) for path in paths]]
    assert {answer.status_code for answer in answers} == {200}
    assert sum(int(answer.headers["content-length"]) for answer in answers) < MOST_BYTES
    imports = (re.findall(r'^import .* from "(.+)";$', answer.text, re.MULTILINE) for answer in answers)
    asked = {urljoin("/", path) for found in imports for path in found}
    assert asked <= set(paths), "preload what is imported, so that nothing waits for what asks for it"


async def test_a_file_that_is_the_same_is_not_sent_again(page: Page) -> None:
    first = await page.http.get("/page/main.js")
    again = await page.http.get("/page/main.js", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    plain = await page.http.get("/page/main.js", headers={"accept-encoding": "identity"})
    assert plain.content == first.content == (FOLDER / "main.js").read_bytes()


async def test_nothing_but_the_page_itself_may_run(page: Page) -> None:
    policy = (await page.http.get("/")).headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "require-trusted-types-for 'script'" in policy


def test_nothing_is_inline_and_no_text_becomes_html() -> None:
    page = (FOLDER / "index.html").read_text()
    assert not re.search(r"<style|style=|<script(?![^>]*src=)|\son\w+=", page)
    for path in FOLDER.rglob("*.js"):
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", path.read_text()), path
