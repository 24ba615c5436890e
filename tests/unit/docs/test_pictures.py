"""The pictures of the README are what the code draws, or draws from a run of the demo."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from docs.pictures import terminal, window

DEMO = """\
\x1b[1mBuilding\x1b[0m demo/spec.yaml: 4 sinks + a window of 252
\x1b[?25l\x1b[32m-\x1b[0m resolve\r\x1b[2K\x1b[1;32mdemo@1\x1b[0m is ready \x1b[2m· 2.6 s\x1b[0m

\x1b[1mTalking\x1b[0m to demo@1, until the window has overflowed 20 times

you   one
model first

you   two
model second

\x1b[32m-\x1b[0m turn 13\r\x1b[2K\x1b[2m… 283 turns later, 5058 tokens evicted …\x1b[0m

you   three
model third

What happened
| table |

Next:
  more
"""


def test_the_window_is_what_the_code_draws() -> None:
    assert window.PICTURE.read_text() == window.draw(), "run `make pictures`"


def test_the_window_shows_every_token_once_in_the_text_and_those_that_are_held_in_the_cache() -> None:
    texts = [element.text for element in ET.fromstring(window.draw()).iter() if element.text]
    counts = [texts.count(str(position)) for position in range(window.POSITION + 1)]
    evicted = window.WINDOW.evicted(window.POSITION + 1)
    stale = window.GEOMETRY.ring - window.WINDOW.window
    assert counts == [2] * 4 + [1] * (evicted - stale) + [2] * (stale + 12)


def test_of_a_run_its_ends_and_its_table_are_shown() -> None:
    lines = [line for line in terminal.shown(DEMO) if line and line != terminal.LEFT_OUT]
    assert lines[:4] == [
        "$ make demo",
        "\x1b[1mBuilding\x1b[0m demo/spec.yaml: 4 sinks + a window of 252",
        "\x1b[1;32mdemo@1\x1b[0m is ready \x1b[2m· 2.6 s\x1b[0m",
        "\x1b[1mTalking\x1b[0m to demo@1, until the window has overflowed 20 times",
    ]
    assert lines[4:] == [
        *("you   one", "model first", "you   two", "model second"),
        "\x1b[2m… 283 turns later, 5058 tokens evicted …\x1b[0m",
        *("you   three", "model third", "What happened", "| table |"),
    ]


def test_the_terminal_is_a_picture_that_asks_the_network_for_nothing() -> None:
    for drawn in (terminal.picture(DEMO), terminal.PICTURE.read_text()):
        ET.fromstring(drawn)
        assert "url(http" not in drawn
        assert "What&#160;happened" in drawn
