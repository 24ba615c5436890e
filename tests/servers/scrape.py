"""What a service tells Prometheus."""

from __future__ import annotations

import asyncio
import urllib.request
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

Labels = frozenset[tuple[str, str]]


@dataclass(frozen=True)
class Scrape:
    """Samples of one scrape, by name and labels."""

    samples: dict[tuple[str, Labels], float]

    def __getitem__(self, name: str) -> float:
        """The only sample of a name."""
        (value,) = self.all(name).values()
        return value

    def all(self, name: str) -> dict[Labels, float]:
        """The samples of a name, by their labels."""
        return {labels: value for (found, labels), value in self.samples.items() if found == name}

    def by(self, name: str, label: str) -> dict[str, float]:
        """The samples of a name, by one of their labels."""
        return {dict(labels)[label]: value for labels, value in self.all(name).items()}


def scrape(address: str) -> Scrape:
    """Ask once, as Prometheus does; blocks."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=20) as answer:
        text = answer.read().decode()
    families = text_string_to_metric_families(text)
    found = [sample for family in families for sample in family.samples]
    return Scrape({(sample.name, frozenset(sample.labels.items())): sample.value for sample in found})


async def scraped(address: str) -> Scrape:
    """The same, while the event loop goes on."""
    return await asyncio.to_thread(scrape, address)
