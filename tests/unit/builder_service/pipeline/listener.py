"""A parent of builds that lets everything happen, or not."""

from __future__ import annotations

from dataclasses import dataclass, field

from builder_service.pipeline.estimate import Estimate
from builder_service.queue.build import Stage


@dataclass
class Listener:
    """A parent that lets everything happen, or not."""

    builds: bool = True
    stores: bool = True
    reports: list[tuple[Stage, float]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    digests: tuple[str, ...] = ()
    bytes: dict[Stage, int] = field(default_factory=dict)
    needs: Estimate | None = None

    def progress(self, stage: Stage, done: float, bytes_total: int = 0) -> None:
        self.reports.append((stage, done))
        if bytes_total:
            self.bytes[stage] = bytes_total

    def expect(self, needs: Estimate) -> None:
        self.needs = needs

    def log(self, text: str) -> None:
        self.lines.append(text)

    def may_build(self, key: str) -> bool:
        self.keys.append(key)
        return self.builds

    def may_store(self, digests: tuple[str, ...]) -> bool:
        self.digests = digests
        return self.stores
