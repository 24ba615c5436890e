"""One page: every figure that SinkServe is held to, with its goal and what this machine makes of it, from one run.

    python bench/page.py                        # some fifteen minutes; with peers installed, twice as long
    python bench/page.py --only service,window
    python bench/page.py --show bench/results/page.json  # the last full one; docs/measured/performance.md has it

Each section is a script of its own, run by itself with --json; a section that fails has its reason in the place of its
figures. Peers take part where they are installed: `python bench/peers/run.py --install`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from rich.console import Console
from rich.table import Table

from bench.goals import SECTIONS, Figure, Section
from bench.peers.checkpoint import checkpoint
from bench.peers.results import machine
from bench.peers.shapes import SHAPES

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("sinkserve", "onnxruntime", "numpy", "grpcio")
LONGEST_S = 1800
"""A section that takes longer is stuck."""
WIDTH = 120  # of a page that is written to a file


@dataclass
class Page:
    """All of one run."""

    machine: dict[str, Any]
    versions: dict[str, str]
    figures: list[Figure] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    """Why a section has no figures."""


_FORM = TypeAdapter(Page)


def read_page(path: Path) -> Page:
    """An earlier page."""
    return _FORM.validate_json(path.read_text())


def main() -> int:
    arguments = _arguments()
    if arguments.show:
        show(read_page(arguments.show))
        return 0
    page = Page(machine(os.cpu_count() or 1, 64, "wall"), {name: version(name) for name in PACKAGES})
    for section in SECTIONS:
        if not arguments.only or section.name in arguments.only:
            measure(section, page, arguments.folder)
    page.machine["load_last"] = os.getloadavg()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_bytes(_FORM.dump_json(page, indent=1) + b"\n")
    show(page)
    return 0


def measure(section: Section, page: Page, folder: Path) -> None:
    """Run a section and put its figures, or why there are none, on the page."""
    print(f"{section.name} ...", file=sys.stderr, flush=True)
    if section.shape:
        checkpoint(SHAPES[section.shape], folder)
    if section.needs and not (ROOT / section.needs).exists():
        page.failed[section.name] = f"{section.needs} is not there: {section.remedy}"
        return
    try:
        page.figures += section.read(_run(section, folder))
    except (subprocess.SubprocessError, ValueError, KeyError) as error:
        said = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else ""
        page.failed[section.name] = (said or str(error)).splitlines()[-1]


def _run(section: Section, folder: Path) -> Any:  # noqa: ANN401 - JSON
    with tempfile.TemporaryDirectory(prefix="sinkserve-bench-") as home:
        out = Path(home) / "out.json"
        words = [word.format(folder=folder, out=out, bin=Path(sys.executable).parent) for word in section.command]
        command = [sys.executable, *words] if words[0].endswith(".py") else words
        environment = os.environ | {"SINKSERVE_HOME": home}
        done = subprocess.run(
            command, cwd=ROOT, env=environment, timeout=LONGEST_S, check=True, capture_output=True, text=True
        )
        return json.loads(out.read_text() if out.exists() else done.stdout)


def show(page: Page) -> None:
    """The page, as a table of figures against goals."""
    console, made = Console(), page.machine
    if not console.is_terminal:
        console.width = WIDTH
    table = Table("", "figure", "result", "goal", "", title="SinkServe")
    for figure in page.figures:
        table.add_row(figure.section, *figure.row, style="" if figure.met else "yellow")
    console.print(table)
    for name, reason in page.failed.items():
        console.print(f"[yellow]{name} was not measured[/]: {reason}", highlight=False)
    versions = ", ".join(f"{name} {number}" for name, number in page.versions.items())
    flags = ", ".join(made["flags"])
    console.print(f"{made['date']}, {made['processor']}, {made['processors']} processors ({flags}); {versions}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [section.name for section in SECTIONS]
    parser.add_argument("--only", type=lambda text: text.split(","), help=f"some of {','.join(names)}")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "bench", help="for checkpoints and engines")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench" / "page.json")
    parser.add_argument("--show", type=Path, metavar="JSON", help="print an earlier page, and nothing else")
    arguments = parser.parse_args()
    if unknown := set(arguments.only or ()) - set(names):
        parser.error(f"--only: {', '.join(sorted(unknown))}: there are {', '.join(names)}")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
