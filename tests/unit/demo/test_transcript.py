"""The text that the evaluation of the demo model reads is what its script writes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

DEMO = Path(__file__).resolve().parents[3] / "demo"


def test_the_transcript_is_what_its_script_writes() -> None:
    ran = subprocess.run([sys.executable, DEMO / "training" / "transcript.py"], capture_output=True, check=True)
    assert ran.stdout == (DEMO / "transcript.txt").read_bytes()
