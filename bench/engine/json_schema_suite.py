"""The JSON-Schema-Test-Suite against forms: which schemas are taken, and whether what fits is what is valid.

    python bench/engine/json_schema_suite.py SUITE/tests/draft2020-12 [--json]

SUITE is a checkout of github.com/json-schema-org/JSON-Schema-Test-Suite. A schema is refused or taken; of those taken
every instance of the suite is fed as JSON, byte by byte. "stricter" are valid instances that do not fit: a form has one
order of properties, and one way to write a number or a character. "wrong" are invalid instances that fit; exits 1 if
there are any.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from common.errors import InvalidArgument
from common.text.vocabulary import Vocabulary, byte_characters
from common.window import Geometry
from runtime_service.domain.response_format import ResponseFormat
from runtime_service.forms.engine_forms import EngineForms
from runtime_service.forms.form import form_of
from runtime_service.forms.matcher import Matcher
from tests.samples.whole_manifests import make_manifest

DRAFTS = {"draft7": "http://json-schema.org/draft-07/schema#"}
"""What schemas of a folder that say nothing are; without a word, a form reads draft 2020-12."""
COLUMNS = ("schemas", "refused", "fit as they should", "stricter", "wrong")


def main() -> int:
    arguments = parse()
    found = asyncio.run(run(arguments.folder))
    total = sum(found.values(), Counter())
    if arguments.json:
        sys.stdout.write(json.dumps(found) + "\n")
    else:
        show(found | {"all": total})
    return int(total["wrong"] > 0)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


async def run(folder: Path) -> dict[str, Counter[str]]:
    """Counts by file of the suite."""
    tokenizer = {"added_tokens": [], "model": {"vocab": byte_characters()}, "decoder": {"type": "ByteLevel"}}
    forms = EngineForms(Vocabulary(tokenizer), make_manifest(Geometry(1, 8, 4, 1), vocabulary=256))
    found: dict[str, Counter[str]] = {}
    for name, group in groups(folder):
        counts = found.setdefault(name, Counter(dict.fromkeys(COLUMNS, 0)))
        counts["schemas"] += 1
        try:
            form = form_of(ResponseFormat(json_schema=json.dumps(dated(group["schema"], folder.name))))
            matcher = await forms.matcher(form)
        except InvalidArgument:
            counts["refused"] += 1
            continue
        for test in group["tests"]:
            counts[judge(matcher, test, name, group["description"])] += 1
    return found


def groups(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted(folder.glob("*.json")):
        for group in json.loads(path.read_text(encoding="utf-8")):
            yield path.stem, group


def dated(schema: object, folder: str) -> object:
    """The schema, which says of which draft it is."""
    if isinstance(schema, dict) and folder in DRAFTS:
        return {"$schema": DRAFTS[folder], **schema}
    return schema


def judge(matcher: Matcher, test: dict[str, Any], name: str, description: str) -> str:
    fits = any(accepts(matcher, json.dumps(test["data"], ensure_ascii=False, separators=pair)) for pair in SEPARATORS)
    if fits == test["valid"]:
        return "fit as they should"
    if test["valid"]:
        return "stricter"
    sys.stderr.write(f"wrong: {name}: {description}: {test['description']}: {json.dumps(test['data'])}\n")
    return "wrong"


SEPARATORS = ((",", ":"), (", ", ": "))


def accepts(matcher: Matcher, text: str) -> bool:
    state = matcher.state.deep_copy()
    tokens = list(text.encode())  # a token is its byte
    return state.try_consume_tokens(tokens) == len(tokens) and state.is_accepting()


def show(found: dict[str, Counter[str]]) -> None:
    table = Table("keywords of", *COLUMNS)
    for name, counts in found.items():
        table.add_row(name, *(str(counts[column]) for column in COLUMNS))
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
