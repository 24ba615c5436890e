"""`python -m deploy.grafana.generate`: writes the dashboards anew from the metrics' definitions."""

from __future__ import annotations

import json
from pathlib import Path

from deploy.grafana.boards import BOARDS

FOLDER = Path(__file__).parent


def files() -> dict[str, str]:
    """Each dashboard's file, by name."""
    return {f"{board.name}.json": json.dumps(board.drawn(), indent=2) + "\n" for board in BOARDS}


if __name__ == "__main__":
    for name, text in files().items():
        (FOLDER / name).write_text(text)
