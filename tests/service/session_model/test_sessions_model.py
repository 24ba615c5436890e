"""Sessions against a model: every order of acts that clients and operators can think of, legal or not.

Two runtimes share a database. After each act the history of every session is compared with what the model says it
must be, token by token, and everything that any client heard with that. A longer search:
SINKSERVE_TEST_MODEL_EXAMPLES=500.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings

from runtime_service.sessions import membership, ownership
from tests.service.session_model.machine import SessionsMachine
from tests.service.session_model.replica import publish

EXAMPLES = os.environ.get("SINKSERVE_TEST_MODEL_EXAMPLES")


@pytest.fixture(scope="module", autouse=True)
def home() -> Any:
    """Where every example begins: a database with an engine. What is polled for is polled often."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(membership, "HAND_OVER_POLL_S", 0.005)
        patch.setattr(ownership, "CLAIM_POLL_S", 0.002)
        folder = Path(tempfile.mkdtemp())
        publish(folder / "home")
        patch.setattr(SessionsMachine, "template", folder / "home", raising=False)
        yield
        shutil.rmtree(folder)


SessionsMachine.TestCase.settings = settings(
    max_examples=int(EXAMPLES or 2),
    stateful_step_count=80,
    derandomize=not EXAMPLES,
    phases=(Phase.generate,),  # what depends on times does not shrink well
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestSessions = pytest.mark.timeout(300)(SessionsMachine.TestCase)  # it computes all the while
