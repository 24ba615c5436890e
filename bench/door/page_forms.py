"""Replies by JSON schemas through the page, in a browser, at temperature 1: all of them have to be valid.

    python bench/door/page_forms.py http://127.0.0.1:8080 [--model demo@1] [--tries 200]

Each is the first reply of a conversation with an engine that is loaded; four tabs ask at a time. Needs node and a
Chromium. Exits 1 unless every reply is valid by the jsonschema package, or the page says that it is not whole.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from bench.service.form_replies import SCHEMAS, is_valid
from tests.servers.browser import browser_program
from tests.servers.node import link_packages

SCRIPT = Path(__file__).with_suffix(".mjs")
CUT = "before it was whole"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--model", default="demo@1")
    parser.add_argument("--tries", type=int, default=200)
    args = parser.parse_args()
    good, cut = Counter[str](), Counter[str]()
    for name, reply, figures in said(args.url, args.model, args.tries):
        if CUT not in figures and is_valid(reply, SCHEMAS[name]):
            good[name] += 1
        elif CUT in figures:
            cut[name] += 1
        else:
            print(f"not valid: {reply} ({figures})", file=sys.stderr)
    for name in SCHEMAS:
        print(f"{name}: {good[name]} of {args.tries}, {cut[name]} cut and said so")
    return 0 if all(good[name] + cut[name] == args.tries for name in SCHEMAS) else 1


def said(url: str, model: str, tries: int) -> list[tuple[str, str, str]]:
    """By which schema, the reply, and what the page says below it."""
    with tempfile.TemporaryDirectory() as folder:
        link_packages(Path(folder))
        shutil.copy(SCRIPT, folder)
        command = ("node", SCRIPT.name, browser_program(), url, model, str(tries))
        schemas = json.dumps(SCHEMAS)
        ran = subprocess.run(command, cwd=folder, input=schemas, stdout=subprocess.PIPE, text=True, check=True)
    return [(name, reply, figures) for name, reply, figures in json.loads(ran.stdout)]


if __name__ == "__main__":
    sys.exit(main())
