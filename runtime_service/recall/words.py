"""What a text is found by: its words, in whatever script people type, as numbers of 32 bits. Pure.

One place for both databases and for what is kept and what is asked, so that they cannot differ. Case and accents do not
count. An identifier is found whole and by its parts, a number also with the word before it, as if both were one
identifier; scripts without spaces, and Korean, by pairs of characters. That two words have the same number is rare, and
costs a turn that is recalled for nothing.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from itertools import islice
from zlib import crc32

MOST_KEPT, MOST_ASKED = 512, 32
"""Words that are kept of a turn, and asked for in one search."""
_LONGEST_TEXT = 1 << 15  # characters that are looked at; of a longer text its two ends
_LONGEST_WORD = 64  # characters; of a longer one its beginning
_HAN = "\u3400-\u9fff\uf900-\ufaff\U00020000-\U000323af"
_UNSPACED = f"{_HAN}\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u3040-\u31ff\uac00-\ud7af"
_RUNS = re.compile(f"([{_UNSPACED}]+)|[^\\s{_UNSPACED}]+")
_ALONE = re.compile(f"[{_HAN}]")
_ASCII = re.compile(r"[A-Za-z0-9_]+")
_PARTS = re.compile(r"\d+|[^\d_]+")
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_JOINT = re.compile(f"[\\d_]|{_HUMP.pattern}")
# Latin, Greek and Cyrillic accents, Hebrew and Arabic vowels: what some leave out. In other scripts marks are letters.
_LEFT_OUT = dict.fromkeys((*range(0x0300, 0x0370), *range(0x0591, 0x05C8), *range(0x064B, 0x0653)))


def kept_words(texts: Iterable[str]) -> tuple[int, ...]:
    """Numbers of the first MOST_KEPT different words of texts, in the order in which they first come."""
    return _numbers((word for text in texts for word in _words(text)), MOST_KEPT)


def asked_words(texts: Iterable[str]) -> tuple[int, ...]:
    """Numbers of at most MOST_ASKED different words of a question: those that look rarest, numbers and long ones.

    In the order in which they first come.
    """
    words = dict.fromkeys(word for text in texts for word in _words(text))
    rarest = {*sorted(words, key=lambda word: (word.isdigit(), len(word), word), reverse=True)[:MOST_ASKED]}
    return _numbers((word for word in words if word in rarest), MOST_ASKED)


def _numbers(words: Iterable[str], most: int) -> tuple[int, ...]:
    numbers = (crc32(word[:_LONGEST_WORD].encode("utf-8", "surrogatepass")) - (1 << 31) for word in words)
    return tuple(islice(_different(numbers), most))


def _different(numbers: Iterable[int]) -> Iterator[int]:
    seen: set[int] = set()
    for number in numbers:
        if number not in seen:
            seen.add(number)
            yield number


def _words(text: str) -> Iterator[str]:
    """Words of a text in order, some more than once."""
    half = _LONGEST_TEXT // 2
    if len(text) > _LONGEST_TEXT:
        text = f"{text[:half]} {text[-half:]}"
    before = ""
    for found in _ASCII.finditer(text) if text.isascii() else _RUNS.finditer(_plain(text)):
        run = found[0]
        if run.isdecimal() and before and not before[-1].isdecimal():
            yield f"{before}{run}".casefold()
        yield from _pairs(run) if found.lastindex else _identifier(run)
        before = run[-1] if found.lastindex else run


def _plain(text: str) -> str:
    """A text without accents, and with spaces between its words."""
    apart = unicodedata.normalize("NFKD", text).translate(_LEFT_OUT)
    return unicodedata.normalize("NFC", apart).translate(_SPACED)


def _identifier(word: str) -> Iterator[str]:
    """A word, and its parts if it is made of several: `max_tokens`, `maxTokens`, `line17`."""
    if whole := word.strip("_").casefold():
        yield whole
    if _JOINT.search(word):
        parts = _PARTS.findall(_HUMP.sub("_", word).casefold())
        yield from parts if len(parts) > 1 else ()


def _pairs(run: str) -> Iterator[str]:
    """Every two characters that follow one another, and those that may be a word alone."""
    for index, sign in enumerate(run):
        if len(run) == 1 or _ALONE.match(sign):
            yield sign
        if index + 1 < len(run):
            yield run[index : index + 2]


class _Spaced(dict[int, int]):
    """For `str.translate`: what is neither letter, mark, digit nor `_` is a space. Learns as it goes."""

    def __missing__(self, code: int) -> int:
        kept = unicodedata.category(chr(code))[0] in "LMN" or code == ord("_")
        self[code] = found = code if kept else ord(" ")
        return found


_SPACED = _Spaced()
