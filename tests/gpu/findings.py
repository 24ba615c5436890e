"""What the suite measures and verifies, as the tables it ends with: Markdown, for docs/operate/tensorrt.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from common.spec.model_spec import Precision
from tests.gpu.machine import FAKE, Here
from tests.gpu.tolerances import TOLERANCES

_ABSENT = float("inf")


@dataclass
class FamilyRow:
    """One family in one precision. Errors are relative to a token's largest logit; infinite until they are measured."""

    precision: Precision
    error: float = _ABSENT
    """Worst logit against the CPU engine in fp32, with its tokens forced."""
    gap: float = _ABSENT
    """How far below the GPU's best token a forced one was, at most."""
    verified: float = _ABSENT
    """Divergence from the float64 reference of the same precision."""
    allowed: float = 0.0
    passed: list[bool] = field(default_factory=list)

    @property
    def tolerance(self) -> float:
        """Bound of `error` and `gap`."""
        return TOLERANCES[self.precision]

    @contextmanager
    def checked(self) -> Iterator[None]:
        """Remember whether what is done meanwhile went well."""
        self.passed.append(False)
        yield
        self.passed[-1] = True


@dataclass
class Findings:
    """Collected by all tests of one run."""

    families: dict[tuple[str, Precision], FamilyRow] = field(default_factory=dict)
    measured: list[tuple[str, str]] = field(default_factory=list)

    def family(self, name: str, precision: Precision) -> FamilyRow:
        """The row that tests of this family and precision fill in together."""
        return self.families.setdefault((name, precision), FamilyRow(precision))

    def measure(self, what: str, figure: str) -> None:
        """Note a figure that nothing is asserted of."""
        self.measured.append((what, figure))

    def tables(self, here: Here, outcomes: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
        """Lines to print; `outcomes` are numbers of passed, failed and skipped tests by file."""
        yield from _machine_table(here)
        yield from _outcome_table(outcomes)
        yield from self._family_table()
        if self.measured:
            yield from _table(("measured", "figure"), sorted(set(self.measured)))

    def _family_table(self) -> Iterator[str]:
        if self.families:
            head = ("family", "precision", "worst logit", "worst token", "tolerance", "float64", "allowed", "")
            yield from _table(head, [_family(name, row) for (name, _), row in self.families.items()])


def _family(name: str, row: FamilyRow) -> Sequence[str]:
    figures = (row.error, row.gap, row.tolerance, row.verified, row.allowed)
    return name, row.precision.value, *(f"{figure:.1e}" for figure in figures), "pass" if all(row.passed) else "FAIL"


def _machine_table(here: Here) -> Iterator[str]:
    if FAKE:
        yield "A FAKE GPU: nothing below says anything about a real one."
    if (machine := here.machine) is None:
        yield f"NOTHING OF TENSORRT WAS TESTED: {here.missing}"
        return
    head = ("GPU", "compute capability", "TensorRT", "CUDA", "driver runs CUDA", "platform")
    versions = machine.tensorrt_version, machine.cuda_version, machine.cuda_driver_version
    yield from _table(head, [(machine.gpu, machine.compute_capability, *versions, machine.platform)])


def _outcome_table(outcomes: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    kinds = ("passed", "failed", "skipped")
    rows = [(name, *(str(counts.get(kind, 0)) for kind in kinds)) for name, counts in sorted(outcomes.items())]
    yield from _table(("tests", *kinds), rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield from ("", _line(head), _line(["---"] * len(head)), *map(_line, rows))


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
