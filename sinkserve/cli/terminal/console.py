"""How everything that the command line prints looks: tables, figures, JSON. Knows rich, no services.

Whatever is printed goes through here, where text of other people is made harmless.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from io import StringIO
from typing import Any, Literal

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table

from common.controls import CONTROLS, harmless


class HarmlessConsole(Console):
    """Prints text of other people as `harmless` has it; markup and what moves the cursor for us stay ours."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """Everything that is printed passes here."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(harmless(segment.text), segment.style)


out = HarmlessConsole(highlight=False, soft_wrap=True)
err = HarmlessConsole(highlight=False, soft_wrap=True, stderr=True)

_UNESCAPED = re.compile("[" + "".join(map(chr, (code for code in CONTROLS if code >= 0x7F))) + "]")


def write(text: str) -> None:
    """Write to stdout as it is, for a file or a program; harmless where a person reads it."""
    out.file.write(harmless(text) if out.is_terminal else text)
    out.file.flush()


def print_json(**parts: Message | Sequence[Message]) -> None:
    """Print one document; messages in protojson with proto field names, so that 64-bit numbers are strings."""
    document = {key: _plain(value) for key, value in parts.items()}
    text = json.dumps(document, indent=2, ensure_ascii=False)  # which escapes C0
    write(_UNESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n")


def _plain(value: Message | Sequence[Message]) -> Any:  # noqa: ANN401 - JSON
    if isinstance(value, Message):
        return MessageToDict(value, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    return [_plain(item) for item in value]


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], empty: str) -> None:
    """Print rows under dim heads, or what to say when there are none.

    Cells may hold rich markup; a column whose head ends in # is of numbers.
    """
    if not rows:
        err.print(f"[dim]{empty}[/]")
        return
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    for column in columns:
        justify: Literal["left", "right"] = "right" if column.endswith("#") else "left"
        table.add_column(column.removesuffix("#"), overflow="fold", justify=justify)
    for row in rows:
        table.add_row(*row)
    _print_unwrapped(table)


def print_facts(facts: Sequence[tuple[str, str]]) -> None:
    """Print names and values; values may hold rich markup, those that are empty are left out."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts:
        if value:
            table.add_row(name, value)
    _print_unwrapped(table)


def _print_unwrapped(table: Table) -> None:
    """A pipe gets whole lines, however long: whoever reads it cuts columns, not words."""
    if out.is_terminal:
        out.print(table)
        return
    text = StringIO()
    HarmlessConsole(file=text, highlight=False, width=10_000).print(table)
    write("".join(f"{line.rstrip()}\n" for line in text.getvalue().splitlines()))


def size(count: int) -> str:
    """Bytes as people read them."""
    value = float(count)
    for unit in ("B", "KB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def parameters(count: int) -> str:
    """Parameters as people say them: 1.1B."""
    for unit, scale in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f}{unit}"
    return str(count)


def ago(time: Timestamp) -> str:
    """How long ago; empty for a time that is not set."""
    if not time.seconds:
        return ""
    seconds = (datetime.now(UTC) - time.ToDatetime(UTC)).total_seconds()
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit} ago"
    return "just now" if seconds < 5 else f"{int(seconds)} s ago"


def local_time(time: Timestamp) -> str:
    """Date and time here; empty for a time that is not set."""
    return time.ToDatetime(UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S") if time.seconds else ""


def duration(seconds: float) -> str:
    """Seconds as people read them."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min"
