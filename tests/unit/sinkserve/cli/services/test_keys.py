"""Keys are made, listed and taken back; the file never has one."""

from __future__ import annotations

import stat
from contextlib import suppress
from pathlib import Path
from threading import Barrier, BrokenBarrierError, Thread

import pytest
from typer.testing import CliRunner, Result

from common.auth.api_keys import ApiKeys
from common.errors import Unauthenticated
from sinkserve.cli.app import make_app
from sinkserve.cli.services.keys import revoke


def keys(*args: str) -> Result:
    return CliRunner().invoke(make_app(["keys"]), ["keys", *args])


async def test_a_key_is_shown_once_and_works_until_it_is_revoked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.watched.CHECK_S", 0.0)
    path = tmp_path / "made" / "keys"
    monkeypatch.setenv("SINKSERVE_AUTH_KEYS", str(path))
    first, second = (keys("new", "ann").stdout.split()[0] for _ in range(2))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert first not in path.read_text()
    service = ApiKeys("KEYS", path)
    assert await service.verify(first) == await service.verify(second) == "key:ann"
    key_id = path.read_text()[:12]
    listed = keys("list").stdout
    assert (listed.count("ann"), key_id in listed) == (2, True)
    assert keys("revoke", key_id).exit_code == 0
    with pytest.raises(Unauthenticated, match="revoked"):
        await service.verify(first)
    assert await service.verify(second) == "key:ann"
    assert keys("revoke", key_id).exit_code == 4


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["new", "ann smith", "--file", "keys"], "is not a name"),
        (["new", "ann"], "--file FILE"),
        (["list"], "--file FILE"),
    ],
)
def test_what_cannot_be_done_says_why(words: list[str], said: str) -> None:
    ran = keys(*words)
    assert ran.exit_code == 2
    assert said in ran.stderr


def test_a_file_of_something_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("not keys\n")
    ran = keys("new", "ann", "--file", str(path))
    assert (ran.exit_code, "line 1 is not HASH NAME CREATED" in ran.stderr) == (1, True)
    assert path.read_text() == "not keys\n"


def test_commands_at_once_lose_nothing_and_comments_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "keys"
    monkeypatch.setenv("SINKSERVE_AUTH_KEYS", str(path))
    path.write_text("# ask ann before you revoke\n")
    for name in ("ann", "bob", "eve"):
        keys("new", name)
    first = [line[:12] for line in path.read_text().splitlines()[1:]]
    reading = Barrier(2)

    def read_slowly(where: Path) -> bytes:
        """Both commands would have read before either writes."""
        found = read(where)
        with suppress(BrokenBarrierError):
            reading.wait(0.2)
        return found

    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", read_slowly)
    threads = [Thread(target=revoke, args=(key_id,), kwargs={"file": path}) for key_id in first[:2]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    left = path.read_text().splitlines()
    assert left[0] == "# ask ann before you revoke"
    assert [line[:12] for line in left[1:]] == first[2:]


def test_whoever_could_read_the_file_still_can(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    keys("new", "ann", "--file", str(path))
    path.chmod(0o640)
    keys("revoke", path.read_text()[:12], "--file", str(path))
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("", 0o640), "else a service goes on with the old"
