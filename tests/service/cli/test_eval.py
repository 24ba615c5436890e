"""`sinkserve eval` on an engine that the builder built, against the paper's scheme in float64."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer
from typer.testing import CliRunner, Result

from builder_service.sources.uri import Remote
from common.settings import SharedSettings
from common.window import Geometry, SessionWindow
from runtime_service.settings import RuntimeSettings
from sinkserve.cli import eval as command
from sinkserve.cli.app import make_app
from sinkserve.evaluation.modes import SINKS, Kind, all_modes
from sinkserve.evaluation.perplexity import measure_perplexity
from sinkserve.evaluation.progress import Advance
from sinkserve.evaluation.workbench import Workbench
from tests.samples.checkpoints import write_checkpoint
from tests.samples.reference import Reference, Weights

TEXT = "<|user|>what is two plus two?<|end|><|assistant|>four, of course.<|end|>" * 8
CAPACITY = 44


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with an engine `tiny` of 4 sinks and a window of 40, built from the folder's own spec, and a text."""
    folder = tmp_path_factory.mktemp("eval")
    write_checkpoint(folder / "tiny")
    spec = "name: tiny\nsource: {uri: ./tiny}\ncache: {window_tokens: 40, chunk_tokens: 8, max_slots: 3}\n"
    (folder / "spec.yaml").write_text(spec)
    (folder / "text.txt").write_text(TEXT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SINKSERVE_HOME", str(folder / "home"))
        patch.setenv("SINKSERVE_RUNTIME_THREADS", "1")
        ran = sinkserve("eval", "speed", str(folder / "spec.yaml"), "--cache", "16")
        assert ran.exit_code == 0, ran.stderr
        assert "tiny@1 is ready" in ran.stderr
        yield folder


@pytest.fixture
def bench(home: Path) -> Iterator[Workbench]:
    bench = Workbench.open("tiny", SharedSettings.load(), RuntimeSettings.load(), Remote())
    yield bench
    bench.close()


def sinkserve(*args: str) -> Result:
    return CliRunner().invoke(make_app(args), args)


def track(_name: str, _total: int) -> nullcontext[Advance]:
    return nullcontext(lambda _: None)


def log_probability(logits: Any, token: int) -> float:
    return float(logits[token] - logits.max() - np.log(np.exp(logits - logits.max()).sum()))


@pytest.mark.long
def test_every_mode_of_every_cache_is_the_papers_scheme(bench: Workbench, home: Path) -> None:
    weights, tokens, stride = Weights(home / "tiny"), bench.encode(TEXT)[:100], 7
    found = measure_perplexity(bench, tokens, capacity=CAPACITY, stride=stride, track=track)
    assert not found.skipped
    rows = {row.mode: row.overall for row in found.rows}
    assert len(rows) == 8
    for mode in all_modes(CAPACITY, len(tokens)):
        if mode.kind is Kind.RECOMPUTE:
            scores = [read_anew(weights, tokens, mode.window, end) for end in range(0, len(tokens) - 1, stride)]
        else:
            logits = Reference(weights, mode.window.sinks, mode.window.window).stream(tokens[:-1])
            scores = [log_probability(row, token) for row, token in zip(logits, tokens[1:], strict=True)]
        assert rows[mode.name] == pytest.approx(np.exp(-np.mean(scores)), rel=1e-4), mode


def read_anew(weights: Weights, tokens: Sequence[int], kept: SessionWindow, end: int) -> float:
    """The score of the token after `end`, by a reference that reads what is kept of those up to it and nothing else."""
    text = [*tokens[: min(kept.sinks, end + 1)], *tokens[max(kept.sinks, end + 1 - kept.window) : end + 1]]
    return log_probability(Reference(weights, 0, len(text)).stream(text)[-1], tokens[end + 1])


@pytest.mark.long
def test_text_is_read_with_its_control_tokens_behind_one_begin_token(bench: Workbench, home: Path) -> None:
    (begin,) = bench.text.opening()
    tokens = bench.encode(TEXT)
    assert tokens.count(begin) == 1
    written = Tokenizer.from_file(str(home / "tiny" / "tokenizer.json")).id_to_token(begin)
    assert written is not None
    assert bench.encode(written + TEXT) == tokens
    assert tokens[1:] == [token for _ in range(8) for token in turn(bench)]


def turn(bench: Workbench) -> list[int]:
    text = bench.text
    said, reply = text.user("what is two plus two?"), text.encode("four, of course.")
    return [*said, *text.assistant_before, *reply, *text.closing]


def test_another_cache_is_refused_where_the_config_is_not_what_the_engine_was_built_from(
    bench: Workbench, home: Path
) -> None:
    config = home / "tiny" / "config.json"
    before = config.read_text()
    config.write_text(json.dumps(json.loads(before) | {"rms_norm_eps": 1e-4}))
    try:
        found = measure_perplexity(bench, bench.encode(TEXT)[:60], capacity=CAPACITY, stride=50, track=track)
    finally:
        config.write_text(before)
    assert [row.mode for row in found.rows] == ["recomputation 0+44", "recomputation 4+40", "sinks 4+40"]
    assert all("was built from another config.json" in reason for reason in found.skipped.values())
    with bench.resized(Geometry(0, 50, 1, 1)) as engine:
        assert engine.geometry.window == 50
    assert not list((home / "home" / "engines").glob(".resized-*"))


@pytest.mark.nightly
def test_with_another_cache_int4_keeps_its_blocks(home: Path) -> None:
    options = "precision: int4\noptions: {onnxruntime: {int4_block: 64}}\n"
    spec = (home / "spec.yaml").read_text().replace("name: tiny", "name: blocks") + options
    (home / "blocks.yaml").write_text(spec)
    ran = sinkserve("eval", "speed", str(home / "blocks.yaml"), "--cache", "16")
    assert ran.exit_code == 0, ran.stderr
    assert "blocks@1 is ready" in ran.stderr


@pytest.mark.long
def test_a_measurement_comes_as_a_table_json_and_a_plot(home: Path, tmp_path: Path) -> None:
    args = ("eval", "ppl", "tiny", "--text", str(home / "text.txt"), "--tokens", "80", "--stride", "9")
    table = sinkserve(*args, "--output", str(tmp_path / "out"))
    assert table.exit_code == 0, table.stderr
    assert [line.split("  ")[0] for line in table.stdout.splitlines()] == [
        "mode",
        *(mode.name for mode in all_modes(CAPACITY, 80)),
    ]
    document = json.loads((tmp_path / "out" / "ppl.json").read_text())
    assert (document["engine"], document["tokens"], document["ranges"]) == ("tiny@1", 80, [[1, 44], [44, 80]])
    assert (tmp_path / "out" / "ppl.png").read_bytes().startswith(b"\x89PNG")
    assert "sinks 4+40" in (tmp_path / "out" / "ppl.svg").read_text()
    assert json.loads(sinkserve(*args, "--json").stdout) == document
    some = json.loads(sinkserve(*args, "--json", "--mode", "sinks", "--mode", "window").stdout)
    assert [row["mode"] for row in some["rows"]] == [
        f"window 0+{CAPACITY}",
        *(f"sinks {n}+{CAPACITY - n}" for n in SINKS),
    ]
    assert some["compared"] is None


@pytest.mark.long
def test_what_a_precision_costs_is_measured_against_the_checkpoint(home: Path) -> None:
    (home / "int8.yaml").write_text(
        (home / "spec.yaml").read_text().replace("name: tiny", "name: int8") + "precision: int8\n"
    )
    text = ("--text", str(home / "text.txt"), "--tokens", "80")
    same = json.loads(sinkserve("eval", "quality", "tiny", *text, "--json").stdout)
    assert (same["judged"], same["loss"]["mean"], same["divergence"]["mean"], same["same_best"]["mean"]) == (
        79,
        0,
        0,
        1,
    )
    table = sinkserve("eval", "quality", str(home / "int8.yaml"), *text)
    assert table.exit_code == 0, table.stderr
    assert table.stdout.splitlines()[1].split()[0] == "int8@1"
    rounded = json.loads(sinkserve("eval", "quality", "int8", *text, "--json").stdout)
    assert rounded["fp32_perplexity"] == pytest.approx(same["perplexity"])
    assert 0 < rounded["divergence"]["mean"] < 1e-2
    assert not list((home / "home" / "engines").glob(".fp32-*"))


def test_the_same_measurement_draws_the_same_bytes(bench: Workbench, tmp_path: Path) -> None:
    from sinkserve.evaluation.charts import draw  # matplotlib: a second, of each worker that collects

    found = measure_perplexity(bench, bench.encode(TEXT)[:60], capacity=CAPACITY, stride=50, track=track)
    first, second = (path.read_bytes() for name in ("a", "b") for path in draw(found, tmp_path, name)[1:])
    assert first == second


def test_streameval_and_speed_are_measured_drawn_and_printed(home: Path, tmp_path: Path) -> None:
    asked = sinkserve("eval", "streameval", "tiny", "--streams", "2", "--tokens", "400", "-o", str(tmp_path))
    assert asked.exit_code == 0, asked.stderr
    assert asked.stdout.splitlines()[0].split()[-4:] == ["cache", "4+40", "cache", "0+40"]
    assert [line.split()[0] for line in asked.stdout.splitlines()[-3:]] == ["inside", "at", "beyond"]
    timed = sinkserve("eval", "speed", "tiny", "--cache", "16", "--cache", "600", "-o", str(tmp_path))
    assert [line.split()[0] for line in timed.stdout.splitlines()] == ["cache", "16", "600"]
    rows = json.loads((tmp_path / "speed.json").read_text())["rows"]
    assert all(row["ratio"] == pytest.approx(row["recompute_ms"] / row["sinks_ms"]) for row in rows)
    names = {f"{name}.{kind}" for name in ("streameval", "speed") for kind in ("json", "png", "svg")}
    assert {path.name for path in tmp_path.iterdir()} == names


@pytest.mark.long
def test_conversations_are_held_through_the_services_and_timed_by_round(home: Path, tmp_path: Path) -> None:
    lines = [
        {"question_id": 81, "category": "sums", "turns": ["two plus two?", "and three?"], "reference": []},
        {"question_id": "long", "turns": ["two", "what is two plus two? " * 20]},
        {"question_id": 83, "turns": ["never asked"]},
    ]
    file = tmp_path / "questions.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (home / "talks.yaml").write_text((home / "spec.yaml").read_text().replace("name: tiny", "name: talks"))
    asked = (str(file), "--first", "2", "--rounds", "5", "--max-new-tokens", "5")
    table = sinkserve("eval", "conversations", str(home / "talks.yaml"), *asked, "--output", str(tmp_path))
    assert table.exit_code == 0, table.stderr
    said = [line.removeprefix("user ") for line in table.stdout.splitlines() if line.startswith("user ")]
    assert said == ["two plus two?", "and three?"] * 2 + ["two plus two?"]
    assert table.stdout.startswith("question 81 · sums\n")
    rounds = table.stdout[table.stdout.index("round ") :].splitlines()[1:]
    assert [(line.split()[0], line.split()[-1]) for line in rounds] == [(str(number), "1") for number in range(1, 6)]
    assert "left out question long: " in " ".join(table.stderr.split())
    again = sinkserve("eval", "conversations", "talks", *asked, "--json")
    document, written = json.loads(again.stdout), json.loads((tmp_path / "conversations.json").read_text())
    assert (document["engine"], list(document["skipped"])) == ("talks@1", ["question long"])
    replies = [[exchange["reply"] for exchange in found["held"][0]["exchanges"]] for found in (document, written)]
    assert replies[0] == replies[1]
    drawn = sinkserve("eval", "conversations", "talks", *asked, "--json", "--temperature", "2", "--top-p", "0.99")
    sampled = [exchange["reply"] for exchange in json.loads(drawn.stdout)["held"][0]["exchanges"]]
    assert sampled != replies[0], "greedy unless it is asked otherwise"
    refused = sinkserve("eval", "conversations", "talks", *asked, "--top-p", "2")
    assert "top_p is 2" in " ".join(refused.stderr.split())
    (held,) = document["held"]
    positions = [exchange["position"] for exchange in held["exchanges"]]
    assert positions == sorted(positions)
    assert positions[-1] > CAPACITY, "one conversation, which outgrows the cache"
    assert "a token from then on" in (tmp_path / "conversations.svg").read_text()


@pytest.mark.nightly  # 28 s of processor time
def test_recall_is_asked_by_distance_with_and_without(home: Path, tmp_path: Path) -> None:
    """Of a model that knows nothing: what was found is known by the turns that were read again."""
    spec = (home / "spec.yaml").read_text().replace("name: tiny", "name: recalling")
    wide = spec.replace("window_tokens: 40, chunk_tokens: 8", "window_tokens: 240, chunk_tokens: 64")
    (home / "recall.yaml").write_text(wide)
    size = ("--windows", "2", "--questions", "1", "--conversations", "2", "--recall-tokens", "60")
    ran = sinkserve("eval", "recall", str(home / "recall.yaml"), *size, "--output", str(tmp_path))
    assert ran.exit_code == 0, ran.stderr
    assert "60 tokens are read again in a window of 240" in ran.stderr
    names = [line.split("  ")[0] for line in ran.stdout.splitlines()[1:]]
    assert names[:7] == ["0.25", "0.5", "0.75", "1", "2", "inside the window", "beyond it"]
    assert names[-3:] == ["single-session-user", "knowledge-update", "abstention"]
    document = json.loads((tmp_path / "recall.json").read_text())
    assert document["position"] > 8 * 240
    assert [row["with_recall"]["asked"] for row in document["distances"]] == [1] * 5
    assert "right, with recall" in (tmp_path / "recall.svg").read_text()
    (far,) = [row["with_recall"] for row in document["distances"] if row["windows"] == 2]
    assert far["found"] == 1, "the line was read again, whatever this model then says"
    refused = sinkserve("eval", "recall", "recalling", "--recall-tokens", "61")
    assert refused.exit_code == 2
    assert "has to be 0 to 60" in " ".join(refused.stderr.split())


def test_questions_that_cannot_be_asked_are_named_before_anything_is_loaded(tmp_path: Path) -> None:
    file = tmp_path / "questions.jsonl"
    file.write_text('{"question_id": 1, "turns": ["hello"]}\n{"question_id": 2, "turns": []}\n')
    ran = sinkserve("eval", "conversations", "none", str(file))
    assert (ran.exit_code, ran.stdout) == (2, "")
    assert "line 2: turns has to be a list of texts, at least one, not []" in ran.stderr


def test_what_is_wrong_is_said_before_anything_takes_its_time(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = str(home / "text.txt")
    for args, code, message in (
        (("none", "--text", text), 4, "ENGINE_NOT_FOUND"),
        (("tiny", "--text", str(tmp_path / "none")), 2, "No such file"),
        (("tiny", "--text", text, "--tokens", "30"), 2, "has 30 tokens, which a cache of 44 holds"),
    ):
        ran = sinkserve("eval", "ppl", *args)
        assert (ran.exit_code, message in ran.stderr) == (code, True), (args, ran.stderr)
    monkeypatch.setattr(command, "find_spec", lambda _: None)
    ran = sinkserve("eval", "speed", "tiny", "-o", str(tmp_path))
    assert (ran.exit_code, "pip install 'sinkserve[eval]'" in ran.stderr) == (2, True)


@pytest.mark.long
def test_a_spec_that_does_not_build_ends_the_command(home: Path, tmp_path: Path) -> None:
    (tmp_path / "wrong.yaml").write_text((home / "spec.yaml").read_text().replace("./tiny", str(tmp_path)))
    ran = sinkserve("eval", "speed", str(tmp_path / "wrong.yaml"))
    assert ran.exit_code == 1, ran.stderr
    assert "model.safetensors" in ran.stderr
