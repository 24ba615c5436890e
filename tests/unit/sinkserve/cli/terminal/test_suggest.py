"""Specs that suit a checkpoint, and what `spec init` and `spec check` make of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel
from typer.testing import CliRunner, Result

from builder_service.pipeline.estimate import Estimate
from builder_service.sources.locate import open_source
from builder_service.sources.uri import Remote
from common.errors import InvalidArgument, NotFound
from common.spec.manifest import Architecture
from common.spec.model_spec import BuildOptions, ModelSpec, Precision, Source, Target
from common.spec.yaml_file import read_spec_file
from sinkserve.cli.app import make_app
from sinkserve.cli.terminal.console import size
from sinkserve.cli.terminal.suggest import SpecChoices, engine_name, read_needs, source_of, suggest_spec
from tests.samples.checkpoints import write_checkpoint
from tests.samples.families import write_family


def suggested(folder: Path, choices: SpecChoices) -> ModelSpec:
    with open_source(source := source_of(folder), Remote()) as checkpoint:
        return suggest_spec(checkpoint, source, choices).spec


def needed(spec: ModelSpec) -> tuple[Architecture, Estimate]:
    with open_source(spec.source, Remote()) as checkpoint:
        return read_needs(checkpoint, spec)


def sinkserve(*args: str) -> Result:
    return CliRunner().invoke(make_app(args), args)


def test_the_window_is_what_the_sinks_leave_of_the_trained_context(tmp_path: Path) -> None:
    cache = suggested(write_checkpoint(tmp_path / "a"), SpecChoices()).cache
    assert (cache.sink_tokens, cache.window_tokens) == (4, 508)
    assert suggested(tmp_path / "a", SpecChoices(sinks=12)).cache.window_tokens == 500


def test_a_long_trained_context_does_not_make_a_huge_cache(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "a", max_position=131_072)
    assert suggested(folder, SpecChoices()).cache.window_tokens == 4096


@pytest.mark.parametrize(
    ("context", "sinks", "window"),
    [
        (4, 0, 4),
        (16, 2, 14),
        (2047, 4, 2043),
        (2048, 256, 1792),
        (4096, 256, 3840),
        (4352, 256, 4096),
        (131_072, 256, 4096),
    ],
)
def test_there_are_sinks_for_a_system_prompt_where_the_context_allows(
    tmp_path: Path, context: int, sinks: int, window: int
) -> None:
    cache = suggested(write_checkpoint(tmp_path / "a", max_position=context), SpecChoices()).cache
    assert (cache.sink_tokens, cache.window_tokens) == (sinks, window)


def test_a_sliding_window_of_the_layers_is_all_there_is_to_share(tmp_path: Path) -> None:
    cache = suggested(write_family(tmp_path / "a", "mistral"), SpecChoices()).cache
    assert (cache.sink_tokens, cache.window_tokens) == (4, 296), "of 512 tokens of context, layers see 300"


@pytest.mark.parametrize(
    ("choices", "sinks", "window"),
    [
        (SpecChoices(sinks=12), 12, 2036),
        (SpecChoices(sinks=0), 0, 2048),
        (SpecChoices(window=1792), 256, 1792),
        (SpecChoices(window=1793), 4, 1793),
        (SpecChoices(window=2044), 4, 2044),
        (SpecChoices(window=8), 256, 8),
    ],
)
def test_what_was_asked_for_goes_before_room_for_a_system_prompt(
    tmp_path: Path, choices: SpecChoices, sinks: int, window: int
) -> None:
    cache = suggested(write_checkpoint(tmp_path / "a", max_position=2048), choices).cache
    assert (cache.sink_tokens, cache.window_tokens) == (sinks, window)


def test_init_states_the_memory_of_a_slot_and_of_all(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "a", max_position=131_072)
    _, needs = needed(spec := suggested(folder, SpecChoices()))
    text = sinkserve("spec", "init", str(folder)).stdout
    assert "\n# Weights in fp32: exact" in text
    assert re.search(rf"^cache: +# {size(needs.kv_bytes_per_slot)} of keys and values a slot$", text, re.MULTILINE)
    assert f"slots {size(needs.kv_bytes_per_slot * spec.cache.max_slots)}." in text


def test_every_line_of_a_written_spec_has_a_comment(tmp_path: Path) -> None:
    lines = sinkserve("spec", "init", str(write_checkpoint(tmp_path / "a")), "--target", "tensorrt").stdout.splitlines()
    assert all(re.search(r"# \w", line) for line in lines)


def test_wishes_come_true_or_are_refused_by_name(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "a")
    spec = suggested(folder, SpecChoices(name="mine", precision=Precision.INT4, window=100, sinks=0, slots=2))
    assert (spec.name, spec.precision) == ("mine", Precision.INT4)
    assert (spec.cache.sink_tokens, spec.cache.window_tokens, spec.cache.max_slots) == (0, 100, 2)
    with pytest.raises(InvalidArgument, match="window_tokens"):
        suggested(folder, SpecChoices(window=512))


def test_a_folder_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no checkpoint folder"):
        suggested(tmp_path / "none", SpecChoices())


@pytest.mark.parametrize("target", ["tensorrt", "tensorrt_llm"])
def test_init_shows_the_options_of_a_target_and_they_are_the_defaults(tmp_path: Path, target: str) -> None:
    folder, spec = write_checkpoint(tmp_path / "a"), tmp_path / "spec.yaml"
    ran = sinkserve("spec", "init", str(folder), "--target", target, "-o", str(spec))
    assert ran.exit_code == 0, ran.output
    assert read_spec_file(spec) == suggested(folder, SpecChoices(target=Target(target)))
    written = yaml.safe_load(spec.read_text())["options"]
    assert BuildOptions.model_validate(written) == BuildOptions()
    known = BuildOptions.model_fields[target].annotation
    assert isinstance(known, type)
    assert issubclass(known, BaseModel)
    assert list(written) == [target]
    assert list(written[target]) == list(known.model_fields)


def test_init_takes_a_precision_of_the_target_and_refuses_another(tmp_path: Path) -> None:
    folder = str(write_checkpoint(tmp_path / "a"))
    ran = sinkserve("spec", "init", folder, "--target", "tensorrt", "--precision", "fp32")
    assert ran.exit_code == 0, ran.output
    assert "fp32 | fp16 | bf16" in ran.stdout
    assert "options" not in sinkserve("spec", "init", folder).stdout
    ran = sinkserve("spec", "init", folder, "--precision", "fp16")
    assert (ran.exit_code, ran.stdout) == (2, "")
    assert "target onnxruntime is built in one of fp32, int8, int4" in " ".join(ran.stderr.split())


def test_check_states_the_halved_memory_of_a_slot_on_a_gpu(tmp_path: Path) -> None:
    folder, spec = write_checkpoint(tmp_path / "a"), tmp_path / "spec.yaml"
    sinkserve("spec", "init", str(folder), "--target", "tensorrt", "-o", str(spec))
    ran = sinkserve("spec", "check", str(spec), "--set", "options.tensorrt.optimization_level=5")
    assert ran.exit_code == 0, ran.output
    assert "tensorrt" in ran.stdout
    _, wide = needed(suggested(folder, SpecChoices()))
    _, narrow = needed(read_spec_file(spec))
    assert 2 * narrow.kv_bytes_per_slot == wide.kv_bytes_per_slot


@pytest.mark.parametrize(
    ("folder", "name"),
    [("TinyLlama-1.1B Chat", "tinyllama-1.1b-chat"), ("...", "model"), ("x" * 80, "x" * 63), ("Ünï", "n")],
)
def test_names_of_folders_become_names_of_engines(tmp_path: Path, folder: str, name: str) -> None:
    (tmp_path / "in").mkdir()
    assert engine_name(Source(uri=str(tmp_path / "in" / folder))) == name


def test_the_memory_of_a_slot_is_that_of_its_rows(tmp_path: Path) -> None:
    spec = suggested(write_checkpoint(tmp_path / "a"), SpecChoices())
    shapes, needs = needed(spec)
    rows = 4 + (508 + 63) + 63
    assert needs.kv_bytes_per_slot == 2 * 4 * shapes.layers * shapes.kv_heads * shapes.head_dim * rows


def test_init_writes_a_spec_that_reads_back_as_suggested(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "my model")
    ran = sinkserve("spec", "init", str(folder), "-o", str(tmp_path / "spec.yaml"))
    assert (ran.exit_code, ran.stdout) == (0, "")
    assert read_spec_file(tmp_path / "spec.yaml") == suggested(folder, SpecChoices())
    assert "uri: ./my model" in (tmp_path / "spec.yaml").read_text()


def test_init_prints_without_a_file_and_overwrites_none(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "a")
    assert "window_tokens: 508" in sinkserve("spec", "init", str(folder)).stdout
    (tmp_path / "spec.yaml").write_text("mine")
    ran = sinkserve("spec", "init", str(folder), "-o", str(tmp_path / "spec.yaml"))
    assert (ran.exit_code, (tmp_path / "spec.yaml").read_text()) == (2, "mine")


def test_check_states_the_memory_of_a_slot(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "a")
    spec = tmp_path / "spec.yaml"
    sinkserve("spec", "init", str(folder), "-o", str(spec))
    ran = sinkserve("spec", "check", str(spec), "--set", "cache.max_slots=2")
    assert ran.exit_code == 0
    assert "memory per slot" in ran.stdout
    assert "2 slots" in ran.stdout


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("cache.window_tokens=0", "cache.window_tokens: 0 is wrong"),
        ("cache.window_tokens=509", "at most 508 fit"),
        ("precision=int9", "precision: 'int9' is wrong"),
        ("options.tensorrt.workspace_mib=9", "options.tensorrt.workspace_mib: 9 is wrong: only target tensorrt takes"),
        ("cash.window_tokens=1", "did you mean cache?"),
    ],
)
def test_check_names_the_field_that_is_wrong(tmp_path: Path, change: str, message: str) -> None:
    sinkserve("spec", "init", str(write_checkpoint(tmp_path / "a")), "-o", str(tmp_path / "spec.yaml"))
    ran = sinkserve("spec", "check", str(tmp_path / "spec.yaml"), "--set", change)
    assert (ran.exit_code, ran.stdout) == (2, "")
    assert message in ran.stderr


def test_check_refuses_what_the_builder_would(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "a")
    spec = tmp_path / "spec.yaml"
    sinkserve("spec", "init", str(folder), "-o", str(spec))
    write_checkpoint(folder, config={"hidden_act": "relu"})
    ran = sinkserve("spec", "check", str(spec))
    assert ran.exit_code == 2
    assert "hidden_act" in ran.stderr
    assert "CONFIG_UNSUPPORTED" in ran.stderr


@pytest.mark.parametrize("uri", ["https://example.org/model", "hf://model", "file://elsewhere/model"])
def test_check_says_of_a_source_what_the_builder_says(tmp_path: Path, uri: str) -> None:
    (tmp_path / "spec.yaml").write_text(f"name: demo\nsource: {{uri: '{uri}'}}\n")
    ran = sinkserve("spec", "check", str(tmp_path / "spec.yaml"))
    assert ran.exit_code == 2
    assert re.search(rf"spec\.source\.uri: '{uri}' is not (a path|hf://ORG/REPO)", " ".join(ran.output.split()))


def test_check_reads_a_file_url_as_the_builder_does(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "a model")
    (tmp_path / "spec.yaml").write_text(
        f"name: demo\nsource: {{uri: '{folder.as_uri()}'}}\ncache: {{window_tokens: 60}}\n"
    )
    ran = sinkserve("spec", "check", str(tmp_path / "spec.yaml"))
    assert ran.exit_code == 0, ran.output
