"""Draws docs/pictures/terminal.svg from a run of `make demo`: its first turns, its last ones, its closing table.

Run by `make pictures`. Everything shown is what the run printed; what is left out is marked.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

ROOT = Path(__file__).resolve().parents[2]
PICTURE = Path(__file__).with_suffix(".svg")
WIDTH = 84
TURNS = 3
"""Turns that are shown of the start, and of the end."""

LEFT_OUT = "\x1b[2m⋮\x1b[0m"
REDRAWN = re.compile(r"^.*(?:\r|\x1b\[2K)")
"""What of a line was written over again."""
CURSOR = re.compile(r"\x1b\[\?25[hl]|\x1b\[\d*A")

BLACK, RED, GREEN, YELLOW = (31, 41, 51), (190, 40, 40), (20, 120, 60), (150, 100, 0)
BLUE, MAGENTA, CYAN, GREY = (30, 90, 180), (140, 60, 150), (0, 115, 135), (90, 100, 110)
THEME = TerminalTheme((255, 255, 255), BLACK, [BLACK, RED, GREEN, YELLOW, BLUE, MAGENTA, CYAN, GREY])


def picture(printed: str) -> str:
    """What a run of the demo printed, as the SVG of a terminal."""
    with Path(os.devnull).open("w") as nowhere:
        console = Console(record=True, width=WIDTH, file=nowhere, force_terminal=True, color_system="truecolor")
        console.print(Text.from_ansi("\n".join(shown(printed))), soft_wrap=True)
        return console.export_svg(title="make demo", theme=THEME, code_format=_FORMAT, unique_id="terminal")


def shown(printed: str) -> Iterator[str]:
    """The lines of a run that are shown, in the order in which they were printed."""
    lines = [CURSOR.sub("", REDRAWN.sub("", line)).rstrip() for line in printed.split("\n")]
    ready = next(line for line in lines if line.endswith("s\x1b[0m") and "is ready" in line)
    building = next(line for line in lines if "Building" in line)
    start = next(index for index, line in enumerate(lines) if "Talking" in line)
    gap = next(index for index, line in enumerate(lines) if "turns later" in line)
    table = next(index for index, line in enumerate(lines) if "What happened" in line)
    end = next(index for index, line in enumerate(lines) if line.startswith("Next:"))
    yield from ("$ make demo", building, LEFT_OUT, ready, "", lines[start])
    for turn in _turns(lines[start + 1 : gap])[:TURNS]:
        yield from ("", *turn)
    yield from (LEFT_OUT, "", lines[gap], "", LEFT_OUT)
    for turn in _turns(lines[gap + 1 : table])[-TURNS:]:
        yield from (*turn, "")
    yield from lines[table : end - 1]


def _turns(lines: list[str]) -> list[list[str]]:
    """Turns as they were printed: lines without a blank one between."""
    turns: list[list[str]] = [[]]
    for line in lines:
        if line:
            turns[-1].append(line)
        elif turns[-1]:
            turns.append([])
    return [turn for turn in turns if turn]


def run_demo() -> str:
    """Run the demo as in a terminal and return what it printed; raises CalledProcessError if it fell short."""
    settings = {"PYTHONPATH": str(ROOT), "FORCE_COLOR": "1", "TERM": "xterm-256color", "COLUMNS": str(WIDTH)}
    command = [sys.executable, str(ROOT / "demo" / "chat.py")]
    done = subprocess.run(
        command, env=os.environ | settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True
    )
    return done.stdout.decode()


# Rich's own format asks the network for a font; this one asks nobody, and is drawn on a card of its own.
_FORMAT = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img"
     aria-label="A terminal: make demo builds a model, talks to it, and prints a table of what happened.">
<style>
  .{unique_id}-matrix {{
    font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace;
    font-size: {char_height}px; line-height: {line_height}px; font-variant-east-asian: full-width;
  }}
  rect[rx] {{ stroke: #cfd5dc; }}
  .{unique_id}-title {{ font: bold 18px system-ui, "DejaVu Sans", sans-serif; }}
  {styles}
</style>
<defs>
  <clipPath id="{unique_id}-clip-terminal">
    <rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/>
  </clipPath>
  {lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
  {backgrounds}
  <g class="{unique_id}-matrix">
  {matrix}
  </g>
</g>
</svg>
"""


if __name__ == "__main__":
    PICTURE.write_text(picture(run_demo()))
