"""An engine proves on this machine that it computes what the reference does, before it serves: its golden streams."""

from __future__ import annotations

from pathlib import Path

import structlog

from common.engine.engine import Engine
from common.golden.golden import Golden
from common.golden.judgement import check, judge
from common.golden.rehearsal import rehearse
from common.spec.manifest import GOLDEN_PATH, Manifest

log = structlog.get_logger()


def verify_here(engine: Engine, folder: Path, manifest: Manifest) -> float | None:
    """Run the golden streams of the engine in `folder`; leaves all slots cleared.

    Returns how many times as far off it might be; None for an engine that was built before there were such streams.
    Raises FailedPrecondition (ENGINE_UNVERIFIED) with figure, bound and place.
    """
    if GOLDEN_PATH not in {file.path for file in manifest.files}:
        advice = "it has no golden streams, so nothing says that it computes here what it ought to; build it again"
        log.warning("engine.unverified", engine=manifest.reference, warning=advice)
        return None
    golden = Golden.read(folder / GOLDEN_PATH)
    nearest = judge(golden, rehearse(engine, golden.streams))
    check(nearest, manifest.reference)
    return nearest.margin
