"""`sinkserve eval`: the paper's measurements on an engine, which needs no server.

The engine is read from the store and computes in this process; conversations are held through services that run for as
long as that takes. Tables go to stdout, what moves to stderr.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, TypeVar, cast

import typer
from rich.markup import escape

from common.settings import SettingsError, SharedSettings
from common.spec.yaml_file import model_instead, read_spec_file
from runtime_service.settings import RuntimeSettings
from sinkserve.cli.build.submit import build_here, readable_roots
from sinkserve.cli.chat import options
from sinkserve.cli.chat.chat import given
from sinkserve.cli.eval_view import Measured, print_held, print_measured, tracked
from sinkserve.cli.services.embedded import Addresses, embedded_services
from sinkserve.cli.terminal import console
from sinkserve.cli.terminal.failures import WRONG, Failure, explained
from sinkserve.cli.terminal.options import make_client, own_remote
from sinkserve.client import Client, GenerationOptions
from sinkserve.evaluation.conversations import Conversations, measure_conversations
from sinkserve.evaluation.dialogues import Dialogue, read_dialogues
from sinkserve.evaluation.forms import FORMS, FormName
from sinkserve.evaluation.modes import Kind
from sinkserve.evaluation.perplexity import Perplexity, measure_perplexity
from sinkserve.evaluation.quality import measure_quality
from sinkserve.evaluation.recall.measure import measure_recall
from sinkserve.evaluation.recall.scores import Recall, Size
from sinkserve.evaluation.report import dump, write_document
from sinkserve.evaluation.speed import SIZES, Speed, measure_speed
from sinkserve.evaluation.streameval import StreamEval, measure_streameval
from sinkserve.evaluation.workbench import Workbench

app = typer.Typer(help="The paper's measurements on an engine: tables, JSON and plots.")

_SEED = 0
"""Of every turn, so that the same engine replies the same."""
T = TypeVar("T")

Engine = Annotated[
    str, typer.Argument(metavar="ENGINE", help="A published engine; or SPEC.yaml, which is built first if need be.")
]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="DIR", help="Folder for NAME.json, NAME.png and NAME.svg.")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document instead of the table.")]


@app.command()
def ppl(  # noqa: PLR0917 - typer reads a command's options from its parameters
    engine: Engine,
    text: Annotated[Path, typer.Option("--text", help="A text file, UTF-8; control tokens in it count as such.")],
    tokens: Annotated[int, typer.Option("--tokens", min=2, help="Most tokens of it to read.")] = 8192,
    cache: Annotated[int | None, typer.Option("--cache", min=2, help="Tokens kept; else the engine's.")] = None,
    stride: Annotated[int, typer.Option("--stride", min=1, help="Recompute for every so many tokens.")] = 1,
    mode: Annotated[list[Kind] | None, typer.Option("--mode", help="Ways to go, repeated; else all.")] = None,
    output: Output = None,
    json: Json = False,
) -> None:
    """Perplexity by position: dense, window, recomputation, and 1, 2, 4, 8 sinks."""
    with _opened(engine, output) as bench:
        stream = bench.encode(_read(text))[:tokens]
        capacity = cache or bench.capacity
        if len(stream) <= capacity:
            raise Failure(
                f"{text} has {len(stream)} tokens, which a cache of {capacity} holds: nothing leaves it", code=WRONG
            )
        kinds = mode or tuple(Kind)
        measured = measure_perplexity(bench, stream, capacity=capacity, stride=stride, track=tracked, kinds=kinds)
    _tell(measured, "ppl", output, json=json)


@app.command()
def quality(
    engine: Engine,
    text: Annotated[Path, typer.Option("--text", help="A text file, UTF-8, that the model does not know by heart.")],
    tokens: Annotated[int, typer.Option("--tokens", min=2, help="Most tokens of it to read.")] = 20_000,
    json: Json = False,
) -> None:
    """What the precision costs: perplexity, divergence and same best token, against the checkpoint in fp32."""
    with _opened(engine, None) as bench:
        stream = bench.encode(_read(text))[:tokens]
        if len(stream) < 2:
            raise Failure(f"{text} has {len(stream)} tokens: there is nothing to predict", code=WRONG)
        measured = measure_quality(bench, stream, tracked)
    _print(measured, json=json)


@app.command()
def streameval(  # noqa: PLR0917 - likewise
    engine: Engine,
    form: Annotated[
        FormName, typer.Option("--form", help="The demo model's sentences, or the paper's.")
    ] = FormName.CODES,
    streams: Annotated[int, typer.Option("--streams", min=1, help="Streams, each with other numbers.")] = 8,
    tokens: Annotated[int | None, typer.Option("--tokens", min=1, help="Tokens of a stream; else 16 caches.")] = None,
    output: Output = None,
    json: Json = False,
) -> None:
    """Accuracy of replies by how far back the fact is that they need."""
    with _opened(engine, output) as bench:
        length = tokens or 16 * bench.capacity
        measured = measure_streameval(bench, FORMS[form], form, streams=streams, tokens=length, track=tracked)
    _tell(measured, "streameval", output, json=json)


@app.command()
def speed(
    engine: Engine,
    cache: Annotated[
        list[int] | None, typer.Option("--cache", min=16, help="Tokens kept, repeated; else 256 to 4096.")
    ] = None,
    output: Output = None,
    json: Json = False,
) -> None:
    """Time per token with sinks and with recomputation, by cache size."""
    with _opened(engine, output) as bench:
        threads = RuntimeSettings.load().threads or os.cpu_count() or 1
        measured = measure_speed(bench, cache or SIZES, threads=threads, track=tracked)
    _tell(measured, "speed", output, json=json)


@app.command()
def conversations(  # noqa: PLR0917 - likewise
    engine: Engine,
    questions: Annotated[Path, typer.Argument(metavar="FILE.jsonl", help="Lines as MT-Bench's: question_id, turns.")],
    first: Annotated[int | None, typer.Option("--first", min=1, help="Only the first so many questions.")] = None,
    rounds: Annotated[int | None, typer.Option("--rounds", min=1, help="Turns of each, repeated in order.")] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option("--max-new-tokens", min=1, help="Longest reply; else the engine's.")
    ] = None,
    temperature: options.Temperature = None,
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    min_p: options.MinP = None,
    repetition_penalty: options.RepetitionPenalty = None,
    output: Output = None,
    json: Json = False,
) -> None:
    """Replies to the turns of a file, and by round the time to the first token and tokens a second."""
    generation = given(max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    generation |= given(repetition_penalty=repetition_penalty, seed=_SEED)
    with explained():
        _check_plots(output)
        dialogues = _dialogues(questions, first, rounds)
        tell = (lambda _: None) if json else print_held

        async def hold(client: Client, reference: str) -> Conversations:
            options = cast("GenerationOptions", generation)
            return await measure_conversations(client, reference, dialogues, options, track=tracked, tell=tell)

        measured = _served(engine, hold)
    _tell(measured, "conversations", output, json=json)


@app.command()
def recall(  # noqa: PLR0917 - likewise
    engine: Engine,
    form: Annotated[
        FormName, typer.Option("--form", help="The demo model's sentences for numbered lines, or the paper's.")
    ] = FormName.CODES,
    windows: Annotated[float, typer.Option("--windows", min=1, help="Farthest distance to ask at.")] = 1000,
    questions: Annotated[int, typer.Option("--questions", min=1, help="At each distance, with and without.")] = 6,
    conversations: Annotated[int, typer.Option("--conversations", min=1, help="Before the last questions.")] = 40,
    recall_tokens: Annotated[
        int | None, typer.Option("--recall-tokens", min=1, help="Read again in a turn; else an eighth of the window.")
    ] = None,
    output: Output = None,
    json: Json = False,
) -> None:
    """Answers about what has left the window, by how long ago it was said, with recall and without."""

    async def ask(client: Client, reference: str) -> Recall:
        size = Size(windows, questions, conversations, recall_tokens)
        return await measure_recall(client, reference, form, size, tracked)

    with explained():
        _check_plots(output)
        measured = _served(engine, ask)
    _tell(measured, "recall", output, json=json)


def _dialogues(path: Path, first: int | None, rounds: int | None) -> list[Dialogue]:
    text = _read(path)
    try:
        found = read_dialogues(text, first=first)
    except ValueError as error:
        raise Failure(f"{path} cannot be used\n{error}", code=WRONG) from None
    return [dialogue.of_rounds(rounds or len(dialogue.turns)) for dialogue in found]


def _served(engine: str, measure: Callable[[Client, str], Awaitable[T]]) -> T:
    """Measure with services that run for as long as that takes."""
    spec = read_spec_file(Path(engine)) if _is_spec(engine) else None

    async def serve(services: Addresses) -> T:
        reference = await build_here(services.builder, spec) if spec else engine
        async with make_client(services.builder, services.runtime) as client:
            return await measure(client, reference)

    try:
        with embedded_services(*(readable_roots(spec.source) if spec else ())) as services:
            return asyncio.run(serve(services))
    except SettingsError as error:
        raise Failure(str(error), code=WRONG) from None


@contextmanager
def _opened(engine: str, output: Path | None) -> Iterator[Workbench]:
    """Load the engine; what is missing is reported before anything slow begins."""
    with explained():
        _check_plots(output)
        try:
            reference = _built(Path(engine)) if _is_spec(engine) else engine
            bench = Workbench.open(reference, SharedSettings.load(), RuntimeSettings.load(), own_remote())
        except SettingsError as error:
            raise Failure(str(error), code=WRONG) from None
        try:
            yield bench
        finally:
            bench.close()


def _check_plots(output: Path | None) -> None:
    if output is not None and find_spec("matplotlib") is None:
        raise Failure("--output draws plots with matplotlib", hint="pip install 'sinkserve[eval]'", code=WRONG)


def _is_spec(engine: str) -> bool:
    """Whether a file is named, and not an engine, whose name has no slash; a model is told of by whoever reads it."""
    path = Path(engine)
    return engine.endswith((".yaml", ".yml")) or (bool(model_instead(path)) and ("/" in engine or path.is_file()))


def _read(text: Path) -> str:
    try:
        return text.read_text(encoding="utf-8")
    except OSError as error:
        raise Failure(str(error), code=WRONG) from None
    except UnicodeDecodeError as error:
        raise Failure(f"{text} is no text in UTF-8: {error}", code=WRONG) from None


def _built(path: Path) -> str:
    """The engine of a spec, built by services that run for as long as that takes."""
    spec = read_spec_file(path)
    with embedded_services(*readable_roots(spec.source)) as services:
        return asyncio.run(build_here(services.builder, spec))


def _print(measured: Measured, *, json: bool) -> None:
    if json:
        console.write(dump(measured))
    else:
        print_measured(measured)


def _tell(
    measured: Conversations | Perplexity | Recall | StreamEval | Speed, name: str, output: Path | None, *, json: bool
) -> None:
    _print(measured, json=json)
    if output is None:
        return
    from sinkserve.evaluation.charts import draw  # noqa: PLC0415 - matplotlib is needed for this alone

    files = (write_document(measured, output, name), *draw(measured, output, name))
    console.err.print(f"[dim]wrote[/] {escape(', '.join(str(file) for file in files))}")
