"""Looks for a GPU before anything else, and ends with a report to paste into docs/operate/tensorrt.md."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

import pytest

from common.spec.hardware import GpuMachine
from tests.gpu.findings import Findings
from tests.gpu.machine import Here, look

_FOLDER = Path(__file__).resolve().parent
_PATCHES = pytest.MonkeyPatch()
_HERE = pytest.StashKey[Here]()
_FINDINGS = pytest.StashKey[Findings]()
_KINDS = {"passed": "passed", "failed": "failed", "error": "failed", "skipped": "skipped"}


def pytest_configure(config: pytest.Config) -> None:
    """End at once, in one sentence, where nothing can be tested of what was asked for."""
    config.stash[_HERE] = here = look(_PATCHES)
    config.stash[_FINDINGS] = Findings()
    if here.nothing and _alone(config):
        pytest.exit(here.nothing, returncode=1)


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """Beside other suites this one stays away where nothing of it can run; the report says so."""
    return True if config.stash[_HERE].nothing else None


def pytest_unconfigure() -> None:
    _PATCHES.undo()


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A run without TensorRT has not shown what it is for, however well the rest went."""
    config = session.config
    if exitstatus == pytest.ExitCode.OK and config.stash[_HERE].machine is None and _alone(config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    terminalreporter.section("for docs/operate/tensorrt.md")
    for line in config.stash[_FINDINGS].tables(config.stash[_HERE], _outcomes(terminalreporter)):
        terminalreporter.line(line)


def _alone(config: pytest.Config) -> bool:
    """Whether this suite is all that was asked for."""
    paths = [config.invocation_params.dir / argument.partition("::")[0] for argument in config.args]
    return all(path.resolve().is_relative_to(_FOLDER) for path in paths)


def _outcomes(reporter: pytest.TerminalReporter) -> dict[str, Counter[str]]:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for outcome, kind in _KINDS.items():
        for report in reporter.stats.get(outcome, ()):
            counts[report.nodeid.partition("::")[0]][kind] += 1
    return counts


@pytest.fixture(scope="session")
def findings(pytestconfig: pytest.Config) -> Findings:
    return pytestconfig.stash[_FINDINGS]


@pytest.fixture(scope="session")
def here(pytestconfig: pytest.Config) -> Here:
    return pytestconfig.stash[_HERE]


@pytest.fixture(scope="session", autouse=True)
def machine(here: Here) -> GpuMachine:
    """The GPU with TensorRT that every test needs; `test_cuda_provider.py` alone does without."""
    if here.machine is None:
        pytest.skip(here.missing)
    return here.machine
