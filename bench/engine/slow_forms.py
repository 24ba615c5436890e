"""What a reply without a form waits beside one whose masks take long: its median and longest time between two tokens.

    python bench/engine/slow_forms.py [--mask-s 0.3] [--tokens 200] [--json]

The masks of the slow reply are real ones, behind a sleep. "ratio" is to the same reply alone, on the same engine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from bench.engine.forms import GEOMETRY, engine_of, tokenizer_of
from common.window import SessionWindow
from runtime_service.decoding.reply import Reply
from runtime_service.decoding.sampling import Tokens
from runtime_service.decoding.text import Text
from runtime_service.decoding.token_history import TokenHistory
from runtime_service.domain.options import GenerationOptions
from runtime_service.domain.response_format import ResponseFormat
from runtime_service.forms.engine_forms import EngineForms
from runtime_service.forms.form import form_of
from runtime_service.forms.masks import Masks, Wanted, find
from runtime_service.forms.matcher import Matcher
from runtime_service.scheduling.limits import Limits
from runtime_service.scheduling.running_turn import Work
from runtime_service.scheduling.scheduler import Scheduler
from runtime_service.scheduling.slots import Tenant
from tests.samples.whole_manifests import make_manifest

VOCABULARY = 32_000
WARM_UP = 8
ASKED = ResponseFormat(regex="(.|\n)*")


@dataclass(frozen=True)
class Row:
    """Of the reply without a form."""

    beside: str
    token_ms: float
    longest_ms: float
    ratio: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mask-s", type=float, default=0.3)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = measure(arguments.mask_s, arguments.tokens)
    if arguments.json:
        sys.stdout.write(json.dumps([asdict(row) for row in rows]) + "\n")
        return
    for row in rows:
        figures = f"{row.token_ms:.2f} ms a token, longest {row.longest_ms:.1f} ms, ratio {row.ratio:.2f}"
        sys.stdout.write(f"beside {row.beside}: {figures}\n")


def measure(mask_s: float, tokens: int) -> list[Row]:
    manifest = make_manifest(GEOMETRY, vocabulary=VOCABULARY)  # without an end, no turn has one
    text = Text(json.dumps(tokenizer_of(VOCABULARY)).encode(), manifest)
    matcher = asyncio.run(EngineForms(text.vocabulary, manifest).matcher(form_of(ASKED)))
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="sinkserve-forms-") as scratch:
        engine = engine_of(VOCABULARY, 2, Path(scratch))
        for beside, own in (("nobody", None), (f"masks of {mask_s:g} s", matcher)):
            scheduler = Scheduler(engine, Limits(1, 1 << 20, 0, 0.1), time.monotonic, lambda *_: None)
            scheduler.masks = Masks(find_ids=lambda wanted: slowly(wanted, mask_s))
            between = times(scheduler, text, own, tokens)
            alone = rows[0].token_ms if rows else median(between)
            rows.append(Row(beside, median(between), max(between), median(between) / alone))
    return rows


def slowly(wanted: Wanted, seconds: float) -> list[Tokens]:
    time.sleep(seconds)
    return find(wanted)


def times(scheduler: Scheduler, text: Text, matcher: Matcher | None, tokens: int) -> list[float]:
    """Milliseconds between two tokens of a reply without a form, beside one with `matcher` if any."""
    plain = submit(scheduler, text, None)
    if matcher is not None:
        submit(scheduler, text, matcher)
    ends: list[float] = []
    while len(ends) <= tokens + WARM_UP:
        before = plain.history.length
        scheduler.step()
        if plain.history.length > before > 0:
            ends.append(1e3 * time.perf_counter())
    return [later - sooner for sooner, later in zip(ends[WARM_UP:-1], ends[WARM_UP + 1 :], strict=True)]


def submit(scheduler: Scheduler, text: Text, matcher: Matcher | None) -> Tenant:
    options = GenerationOptions(max_new_tokens=1 << 20, response_format=None if matcher is None else ASKED)
    tenant = Tenant("", TokenHistory(SessionWindow(GEOMETRY.sinks, GEOMETRY.window), ()))
    prompt = tuple(range(GEOMETRY.chunk))
    scheduler.submit(tenant, Work("", prompt, options, 0.0, Reply(text, options, ()), matcher=matcher), lambda _: None)
    return tenant


if __name__ == "__main__":
    main()
