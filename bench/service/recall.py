"""What recall costs: a turn with it beside the same turn without, and the search alone, in sessions of any age.

    python bench/service/recall.py [--ages 10 1000 100000] [--words 12] [--turns 20] [--database postgresql://HOST/NAME]

Both services run embedded, with the demo model. Two sessions of each age lie in the database as if they had been
talked to: one with `recall_tokens` of an eighth of its window, one without. Both are asked the same by turns: a word
that one old turn has, and words that many have. Processor time of the services counts, not the clock, so that a busy
machine changes little. With `--words 450` each old turn has 4 KB of text; its tokens stay as few as before, so that it
may be recalled. The search is that of the runtime, with what is read of the turns that it finds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import tempfile
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import accumulate, islice
from pathlib import Path
from statistics import median

import psutil
from rich.console import Console
from rich.table import Table as Printed
from sqlalchemy import Table, insert

from common.db.database import Database, connect
from common.db.schema import upgrade
from common.rpc.wire import spec_to_wire
from common.spec.yaml_file import read_spec_file
from runtime_service.domain.recall import Indexed, Span
from runtime_service.domain.session import Session
from runtime_service.domain.turn import Turn
from runtime_service.recall.search import find
from runtime_service.recall.words import MOST_KEPT, kept_words
from runtime_service.storage.recall.index import RecallIndex
from runtime_service.storage.recall.newest import DEPTH, packed
from runtime_service.storage.recall.past_turns import PastTurns
from runtime_service.storage.recall.words import add_words
from runtime_service.storage.repository import SessionRepository
from runtime_service.storage.rows import pack, result_to_json, turn_to_row
from runtime_service.storage.tables import recall_turns, recall_words, turns
from sinkserve.cli.build.view import watch
from sinkserve.cli.services.embedded import embedded_services
from sinkserve.client import Client, Conversation

SPEC = Path("demo/spec.yaml")
SAMPLE = "my dog is called Rex."
_AT_ONCE = 1000
_WORDS = 12  # of a turn, besides its own
_VOCABULARY = [f"word{number}" for number in range(20_000)]
_WEIGHTS = list(accumulate(1 / (number + 3) for number in range(len(_VOCABULARY))))


@dataclass
class Costs:
    """Milliseconds of processor time: of a turn with recall and without, of a search, and of the words of a turn."""

    recalling: float
    without: float
    search: float
    words: float
    found: int

    @property
    def row(self) -> tuple[str, ...]:
        ratio, share = self.recalling / self.without, self.search / self.recalling
        figures = (f"{self.recalling:.1f}", f"{self.without:.1f}", f"{ratio:.2f}", f"{self.search:.2f}")
        return (*figures, f"{100 * share:.1f} %", f"{self.words:.2f}", str(self.found))


def said(number: int, words: int) -> str:
    """What was said in a turn: so many words as common as those of a language, and one of its own."""
    rng = random.Random(number)
    return f"fact{number} {' '.join(rng.choices(_VOCABULARY, cum_weights=_WEIGHTS, k=words))}"


def question(rng: random.Random, age: int) -> str:
    """Asks for an old turn among words that many turns have."""
    return f"what about fact{rng.randint(1, max(1, age - 20))} and {' '.join(_VOCABULARY[:6])}"


async def main() -> None:
    arguments = _arguments()
    table = Printed(
        "turns", "with", "without", "ratio", "search", "of a turn", "words", "recalled", title="ms of processor"
    )
    with tempfile.TemporaryDirectory(prefix="sinkserve-recall-") as home:
        os.environ["SINKSERVE_HOME"] = home
        url = arguments.database or f"sqlite:///{home}/sinkserve.db"
        os.environ["SINKSERVE_DATABASE_URL"] = url
        database = connect(url)
        upgrade(database)
        with embedded_services(Path(SPEC.parent)) as found:
            async with Client(found.runtime, found.builder, runtime_admin=found.runtime_admin) as client:
                engine = (
                    await watch(client, (await client.builds.submit(spec_to_wire(read_spec_file(SPEC)))).name)
                ).engine
                await client.engines.load(engine)
                sample = await _sample(client, engine, database)
                for age in arguments.ages:
                    costs = await _measure(client, database, sample, age, arguments)
                    table.add_row(f"{age:,}", *costs.row)
        database.close()
    Console().print(table)


async def _sample(client: Client, engine: str, database: Database) -> tuple[Session, Turn, list[int]]:
    """A session of one turn, which others are made like."""
    async with client.conversation(engine, session_id="sample") as conversation:
        await (await conversation.say(SAMPLE, max_new_tokens=4, ignore_eos=True)).wait()
    session = SessionRepository(database).get("local", "sample")
    ((turn, tokens),) = PastTurns(database).read(session, [1])
    return session, turn, tokens


async def _measure(
    client: Client,
    database: Database,
    sample: tuple[Session, Turn, list[int]],
    age: int,
    arguments: argparse.Namespace,
) -> Costs:
    count: int = arguments.turns
    words: int = arguments.words
    recalled = sample[0].window.window // 8
    made = [_aged(database, sample, age, tokens, words) for tokens in (recalled, 0)]
    rng, found = random.Random(age), 0
    spent: tuple[list[float], list[float]] = ([], [])
    async with (
        client.conversation(session=made[0].name) as recalling,
        client.conversation(session=made[1].name) as without,
    ):
        for number in range(count + 2):
            asked = question(rng, age)
            for place, conversation in enumerate((recalling, without)):
                used, tokens = await _turn(conversation, asked)
                found += tokens > 0
                if number > 1:
                    spent[place].append(used)
    search, written = _search(database, made[0], age, count), _words(database, made[0], age, count, words)
    recalling_ms, without_ms = (1000 * sum(each) / len(each) for each in spent)
    return Costs(recalling_ms, without_ms, search, written, found)


async def _turn(conversation: Conversation, text: str) -> tuple[float, int]:
    """Processor seconds of the services for a turn, and the tokens that it recalled."""
    before = _processor_s()
    finished = await (await conversation.say(text, max_new_tokens=24, ignore_eos=True)).wait()
    return _processor_s() - before, finished.usage.recalled_tokens


def _processor_s() -> float:
    times = [child.cpu_times() for child in psutil.Process().children(recursive=True)]
    return sum(each.user + each.system for each in times)


def _search(database: Database, session: Session, age: int, count: int) -> float:
    """Milliseconds for what the runtime does to find turns, without feeding them."""
    index, past, rng, spent = RecallIndex(database), PastTurns(database), random.Random(1), []
    for _ in range(count):
        asked, before = question(rng, age), time.thread_time()
        known = find(index, session, [asked], session.position)
        past.tokens(session, [each.span.number for each in known[:2]])
        spent.append(time.thread_time() - before)
    return 1000 * median(spent)


def _words(database: Database, session: Session, age: int, count: int, words: int) -> float:
    """Milliseconds to find the words of a turn and to write them, in a transaction that is taken back."""
    spent = []
    for number in range(age + 100, age + 100 + count):
        before = time.thread_time()
        its = kept_words([said(number, words), said(number + 1, words)])
        with database.read() as connection:
            add_words(connection, session.key, Indexed(Span(number, session.position, 30), its))
            connection.rollback()
        spent.append(time.thread_time() - before)
    return 1000 * median(spent)


def _aged(
    database: Database, sample: tuple[Session, Turn, list[int]], age: int, recall_tokens: int, words: int
) -> Session:
    """A session that has been talked to `age` times."""
    source, turn, tokens = sample
    options = replace(source.options, recall_tokens=recall_tokens)
    position = len(source.opening) + age * len(tokens)
    name = f"aged-{age}-{recall_tokens}"
    asked = replace(source, session_id=name, options=options, position=position, turns=age, last_sequence=0)
    session = SessionRepository(database).create(asked)
    first = 1 if recall_tokens else max(1, age - _AT_ONCE)  # without recall older ones are never read
    _fill(database, turns, _turn_rows(session, turn, tokens, range(first, age + 1), words))
    if recall_tokens:
        its = {number: _words_of(number, words) for number in range(1, age + 1)}
        _fill(database, recall_turns, _index_rows(session, len(tokens), its))
        _fill(database, recall_words, _word_rows(session, its))
    return session


def _fill(database: Database, table: Table, rows: Iterator[dict[str, object]]) -> None:
    while some := list(islice(rows, _AT_ONCE)):
        with database.write() as connection:
            connection.execute(insert(table), some)


def _turn_rows(
    session: Session, turn: Turn, tokens: list[int], numbers: range, words: int
) -> Iterator[dict[str, object]]:
    assert turn.result is not None
    row, result, packed_tokens = turn_to_row(session.key, turn), json.loads(result_to_json(turn.result)), pack(tokens)
    ended = {"reason": "STOP", "tokens": packed_tokens, "ended_at": turn.ended_at}
    for number in numbers:
        result["usage"]["position"] = len(session.opening) + number * len(tokens)
        body = str(row["body"]).replace(SAMPLE, said(number, words))
        yield {**row, "number": number, "turn_id": f"t{number}", "body": body, "result": json.dumps(result), **ended}


def _index_rows(session: Session, tokens: int, words: Mapping[int, tuple[int, ...]]) -> Iterator[dict[str, object]]:
    for number, its in words.items():
        position = len(session.opening) + (number - 1) * tokens
        span = {"number": number, "position": position, "tokens": tokens}
        yield {"session_key": session.key, **span, "words": pack(its)}


def _word_rows(session: Session, words: Mapping[int, tuple[int, ...]]) -> Iterator[dict[str, object]]:
    """As turns would have written them, one after another."""
    counts: Counter[int] = Counter()
    newest: dict[int, deque[int]] = defaultdict(lambda: deque(maxlen=DEPTH))
    for number, its in words.items():
        counts.update(its)
        for word in its:
            newest[word].append(number)
    for word, its_turns in newest.items():
        text = "".join(packed(number) for number in reversed(its_turns))
        yield {"session_key": session.key, "word": word, "turns": counts[word], "newest": text}


def _words_of(number: int, words: int) -> tuple[int, ...]:
    return tuple(dict.fromkeys(each for word in said(number, words).split() for each in _numbers(word)))[:MOST_KEPT]


@cache
def _numbers(word: str) -> tuple[int, ...]:
    return kept_words([word])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ages", type=int, nargs="+", default=[10, 1000, 10_000, 100_000])
    parser.add_argument("--words", type=int, default=_WORDS, help="Of every old turn.")
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--database", help="A PostgreSQL database of its own; else an SQLite file.")
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main())
