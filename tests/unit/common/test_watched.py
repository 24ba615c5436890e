"""Files that are read again when they change."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from common import watched
from common.settings import SettingsError
from common.watched import Watched


def number(data: bytes) -> int:
    return int(data)


def test_a_file_is_read_again_when_it_changes_and_a_broken_one_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watched, "CHECK_S", 0.0)
    path, link = tmp_path / "one", tmp_path / "link"
    path.write_text("1")
    link.symlink_to(path)
    found = Watched("SETTING", (link,), number)
    assert found.value == 1
    path.write_text("22")
    assert found.value == 22
    with capture_logs() as logs:
        path.write_text("three")
        assert [found.value, found.value] == [22, 22]
    assert [(log["event"], log["setting"]) for log in logs] == [("file.refused", "SETTING")]
    (tmp_path / "two").write_text("4")
    link.unlink()
    link.symlink_to(tmp_path / "two")
    assert found.value == 4, "as a mounted secret changes"
    with capture_logs() as logs:
        link.unlink()
        assert found.value == 4
    assert logs[0]["event"] == "file.refused"


def test_a_file_is_not_looked_at_for_each_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched, "CHECK_S", 1e9)
    path = tmp_path / "one"
    path.write_text("1")
    found = Watched("SETTING", (path,), number)
    path.unlink()
    assert found.value == 1


@pytest.mark.parametrize(("content", "said"), [(None, "cannot read"), ("x", "invalid literal"), ("1" * 5000, "larger")])
def test_what_cannot_be_used_at_first_names_its_setting(
    content: str | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watched, "MOST_BYTES", 4000)
    if content is not None:
        (tmp_path / "x").write_text(content)
    with pytest.raises(SettingsError, match=f"SETTING: .*{said}"):
        Watched("SETTING", (tmp_path / "x",), number)
