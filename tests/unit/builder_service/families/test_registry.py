"""Every family against the float64 reference, far past its window, and what of its config.json is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builder_service.checkpoint.folder import open_checkpoint
from builder_service.families.registry import FAMILIES, read_model, read_rope
from builder_service.model.model import Activation, Experts, Model, Scales, check_geometry
from builder_service.model.tensors import ModelTensors
from builder_service.model.weight_format import ROUNDED, WeightFormat
from builder_service.pipeline.export import weight_bytes
from builder_service.verify.fake_quantize import FakeQuantized
from builder_service.verify.reference_model import ReferenceModel, Stream
from builder_service.verify.second.reading import SecondReading
from builder_service.verify.verify import verify
from common.errors import FailedPrecondition, InvalidArgument, Reason
from common.spec.model_spec import PRECISIONS, Precision, Target
from common.window import Geometry, SessionWindow
from tests.nightly import by_turns, one_in
from tests.samples.engines import build_engine, gather
from tests.samples.families import CONFIGS, ON_EVERY_TARGET, write_family
from tests.samples.streams import feed_all, largest_error, random_tokens

GEOMETRY = Geometry(4, 17, 8, slots=2)
TOLERANCE = 2e-5  # fp32


@cache
def _model(name: str) -> Model:
    return read_model(CONFIGS[name])


def _reference(folder: Path, name: str, geometry: Geometry, window: SessionWindow, tokens: list[int]) -> np.ndarray:
    """Logits after every token, told as the paper tells it."""
    model = _model(name)
    weights = FakeQuantized(ModelTensors(open_checkpoint(folder).tensors, model), WeightFormat(Precision.FP32))
    stream = Stream(window.sinks, window.window, tuple(range(len(tokens))), tuple(tokens))
    return ReferenceModel(weights, model, read_rope(model, geometry)).logits((stream,))[0]


def test_every_family_has_a_checkpoint_here() -> None:
    assert {_model(name).architecture.family for name in CONFIGS} == {family.name for family in FAMILIES}


@pytest.mark.parametrize(
    ("name", "window"), by_turns(CONFIGS, [SessionWindow(4, 17), SessionWindow(2, 5), SessionWindow(0, 17)])
)
def test_logits_are_those_of_the_papers_scheme_under_any_chunking(
    tmp_path: Path, name: str, window: SessionWindow
) -> None:
    folder = write_family(tmp_path / name, name)
    tokens = random_tokens(90, 96)
    want = _reference(folder, name, GEOMETRY, window, tokens)
    engine = build_engine(folder, GEOMETRY)
    for sizes in ([1], [8], [3, 1, 8, 2]):
        engine.clear(1)
        assert largest_error(feed_all(engine, 1, window, tokens, sizes), want) < TOLERANCE
    engine.close()


@pytest.mark.parametrize("name", one_in(3, CONFIGS))
def test_an_engine_without_sinks_is_right_too(tmp_path: Path, name: str) -> None:
    folder, geometry, window = write_family(tmp_path / name, name), Geometry(0, 9, 4, slots=1), SessionWindow(0, 9)
    tokens = random_tokens(40, 96)
    engine = build_engine(folder, geometry)
    want = _reference(folder, name, geometry, window, tokens)
    assert largest_error(feed_all(engine, 0, window, tokens, [4, 1]), want) < TOLERANCE
    engine.close()


@pytest.mark.parametrize(("name", "precision"), by_turns(CONFIGS, PRECISIONS[Target.ONNXRUNTIME][:-1], long_rows=2))
def test_every_precision_passes_verification(tmp_path: Path, name: str, precision: Precision) -> None:
    """All but keep, which is for quantized sources."""
    folder, model = write_family(tmp_path / name, name), _model(name)
    evidence = gather(folder, GEOMETRY, precision.value)
    figures = verify(evidence, SecondReading(folder, model), model, read_rope(model, GEOMETRY), WeightFormat(precision))
    assert figures["margin"] >= 1.2  # in matrices as small as these, chance counts


@pytest.mark.parametrize(("name", "precision"), by_turns(ON_EVERY_TARGET, sorted(ROUNDED), long_rows=2))
def test_every_precision_in_few_bits_passes_for_gpus_too(tmp_path: Path, name: str, precision: Precision) -> None:
    folder, model = write_family(tmp_path / name, name), _model(name)
    form, evidence = WeightFormat(precision, on_gpu=True), gather(folder, GEOMETRY, precision.value, Target.TENSORRT)
    figures = verify(evidence, SecondReading(folder, model), model, read_rope(model, GEOMETRY), form)
    assert figures["margin"] >= 1.2


DIFFERENT = {
    "mistral": lambda model: replace(model, norm=replace(model.norm, epsilon=0.5)),
    "qwen3": lambda model: replace(model, head_norm=False),
    "pythia": lambda model: replace(model, parallel=False),
    "falcon-7b": lambda model: replace(model, norm=replace(model.norm, centred=False)),
    "falcon-40b": lambda model: replace(model, parallel=False),
    "mpt": lambda model: replace(model, alibi_slopes=tuple(reversed(model.alibi_slopes))),
    "qwen3-moe": lambda model: replace(model, experts=Experts(8, 2, 32)),
    "granite": lambda model: replace(model, scales=replace(model.scales, scores=None)),
    "smollm3": lambda model: replace(model, unrotated_layers=frozenset({0})),
    "arcee": lambda model: replace(model, activation=Activation.SILU),
    "gemma": lambda model: replace(model, norm=replace(model.norm, from_one=False)),
    "gemma2": lambda model: replace(model, scales=replace(model.scales, logit_cap=None)),
    "gemma3": lambda model: replace(model, local_layers=frozenset({0})),
    "olmo2": lambda model: replace(model, scales=replace(model.scales, embedding=1.2)),
    "olmo3": lambda model: replace(model, local_layers=frozenset()),
    "exaone4": lambda model: replace(model, unrotated_layers=frozenset()),
    "glm": lambda model: replace(model, interleaved=False),
    "glm4": lambda model: replace(model, scales=Scales(residual=0.7)),
    "command-r": lambda model: replace(model, scales=Scales(logits=0.5)),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_verification_notices_what_makes_a_family_another(tmp_path: Path, name: str) -> None:
    folder, model = write_family(tmp_path / name, name), _model(name)
    evidence, tensors = gather(folder, GEOMETRY), SecondReading(folder, model)
    with pytest.raises(FailedPrecondition, match="the engine is not the checkpoint's model"):
        verify(evidence, tensors, DIFFERENT[name](model), read_rope(model, GEOMETRY), WeightFormat(Precision.FP32))


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("mistral", "hidden_act", "gelu"),
        ("qwen2", "partial_rotary_factor", 0.5),
        ("phi3", "attention_bias", True),
        ("phi3", "partial_rotary_factor", 1.5),
        ("pythia", "hidden_act", "relu"),
        ("gemma2", "hidden_activation", "silu"),
        ("gemma2", "use_bidirectional_attention", True),
        ("gemma2", "layer_types", ["sliding_attention"]),
        ("gemma2", "attn_logit_softcapping", -1.0),
        ("gemma3", "attn_logit_softcapping", 50.0),
        ("gemma3", "rope_parameters", {"rope_type": "default"}),
        ("gemma3-with-images", "text_config", None),
        ("mistral3", "text_config", {"model_type": "gemma3_text"}),
        ("qwen3-moe", "norm_topk_prob", False),
        ("qwen3-moe", "num_experts_per_tok", 9),
        ("qwen3-moe", "decoder_sparse_step", 2),
        ("qwen3-moe", "mlp_only_layers", [0]),
        ("granite", "logits_scaling", 0.0),
        ("granite", "residual_multiplier", True),
        ("smollm3", "no_rope_layers", [1, 0]),
        ("exaone4", "layer_types", "all"),
        ("command-r", "use_qk_norm", True),
        ("command-r7b", "sliding_window_pattern", 0),
        ("phi2", "qk_layernorm", True),
        ("phi2", "tie_word_embeddings", True),
        ("stablelm2", "qk_layernorm", True),
        ("starcoder2", "norm_type", "rms_norm"),
        ("phi4-mini", "full_attn_mod", 2),
        ("pythia", "rotary_pct", 0.0),
        ("falcon-7b", "alibi", True),
        ("falcon-7b", "activation", "relu"),
        ("mpt", "no_bias", False),
        ("mpt", "logit_scale", 2.0),
        ("mpt", "num_hidden_layers_else", 1),
    ],
)
def test_what_changes_the_maths_is_refused_naming_the_field(name: str, field: str, value: object) -> None:
    with pytest.raises(InvalidArgument, match=field) as raised:
        read_model({**CONFIGS[name], field: value})
    assert raised.value.reason is Reason.CONFIG_UNSUPPORTED


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("llama", "num_hidden_layers", 1_000_000_000),
        ("llama", "hidden_size", 1_000_000_000),
        ("llama", "head_dim", 1_000_000_000),
        ("llama", "num_attention_heads", 1_000_000_000),
        ("llama", "vocab_size", 10**400),
        ("llama", "rope_theta", 10**400),
        ("llama", "max_position_embeddings", math.inf),
        ("falcon-7b", "num_attention_heads", 1_000_000_000),
        ("mpt", "n_heads", 1_000_000_000),
        ("mpt", "attn_config", [1]),
    ],
)
def test_a_size_that_no_model_has_is_refused_at_once_naming_the_field(name: str, field: str, value: object) -> None:
    with pytest.raises(InvalidArgument, match=field) as raised:
        read_model({**CONFIGS[name], field: value})
    assert raised.value.reason is Reason.CONFIG_UNSUPPORTED


@pytest.mark.parametrize("kind", ["linear", "dynamic", "yarn"])
@pytest.mark.parametrize("factor", [1e20, 1e308, 10**400, math.inf, math.nan])
def test_a_stretch_that_no_context_has_is_refused_naming_the_factor(kind: str, factor: float) -> None:
    with pytest.raises(InvalidArgument, match="factor|context") as raised:
        read_model({**CONFIGS["llama"], "rope_scaling": {"rope_type": kind, "factor": factor}})
    assert raised.value.violations[0].field == "source.config.json.rope_parameters.factor"


@pytest.mark.parametrize(
    ("field", "value"), [("alibi", False), ("qk_ln", True), ("clip_qkv", 8.0), ("softmax_scale", 0.1), ("new", 1)]
)
def test_attention_that_mpt_can_have_and_we_do_not_is_refused(field: str, value: object) -> None:
    attention = {**CONFIGS["mpt"]["attn_config"], field: value}
    with pytest.raises(InvalidArgument, match=rf"attn_config\.{field}") as raised:
        read_model({**CONFIGS["mpt"], "attn_config": attention})
    assert raised.value.violations[0].field == f"source.config.json.attn_config.{field}"


@pytest.mark.parametrize(
    ("name", "fields", "most"),
    [
        ("mistral", {}, 300),
        ("mistral", {"sliding_window": None}, 512),
        ("qwen2", {}, 512),
        ("qwen2", {"use_sliding_window": True}, 64),
        ("phi3", {}, 511),
        ("gemma2", {}, 300),
        ("gemma2", {"layer_types": ["full_attention"] * 2}, 512),
        ("gemma3", {"sliding_window": 64}, 64),
        ("gemma3", {"layer_types": ["full_attention"] * 3}, 512),
        ("olmo3", {}, 300),
        ("exaone4", {"sliding_window": None}, 512),
        ("command-r7b", {}, 300),
        ("starcoder2", {}, 300),
        ("smollm3", {"sliding_window": 64}, 512),
        ("smollm3", {"use_sliding_window": True, "sliding_window": 64}, 64),
    ],
)
def test_a_sliding_window_of_a_layer_bounds_sinks_and_window(name: str, fields: dict[str, Any], most: int) -> None:
    shapes = read_model({**CONFIGS[name], **fields}).architecture
    check_geometry(shapes, Geometry(4, most - 4, 8, 1))
    with pytest.raises(
        InvalidArgument, match=rf"window_tokens is {most - 3}.*{most + 1} tokens.*at most {most - 4} fit"
    ):
        check_geometry(shapes, Geometry(4, most - 3, 8, 1))


def test_slopes_are_those_of_the_paper() -> None:
    assert _model("mpt-power-of-two").alibi_slopes == (2**-2, 2**-4, 2**-6, 2**-8)
    assert _model("mpt").alibi_slopes == (2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3)


@pytest.mark.parametrize("pattern", ["LLG", 3])
def test_a_pattern_of_local_layers_is_read_in_either_spelling(pattern: object) -> None:
    fields = {**CONFIGS["exaone4"], "layer_types": None, "sliding_window_pattern": pattern}
    assert read_model(fields).unrotated_layers == _model("exaone4").unrotated_layers == {2}


def test_layers_without_rotation_are_every_fourth_where_no_list_says_which() -> None:
    fields = {**CONFIGS["smollm3"], "no_rope_layers": None, "num_hidden_layers": 9}
    assert read_model(fields).unrotated_layers == {3, 7}
    assert _model("smollm3").unrotated_layers == {1}


def test_experts_that_are_not_whole_blocks_are_refused_where_they_are_quantized() -> None:
    model = read_model({**CONFIGS["qwen3-moe"], "moe_intermediate_size": 24})
    assert weight_bytes(model, GEOMETRY, WeightFormat(Precision.FP32)) > 0
    for precision in (Precision.INT8, Precision.INT4):
        with pytest.raises(InvalidArgument, match=r"experts of 64 by 24 are not whole blocks of 32 inputs") as raised:
            weight_bytes(model, GEOMETRY, WeightFormat(precision))
        assert raised.value.violations[0].field == "spec.precision"


def test_a_mixture_of_experts_is_not_lowered_for_tensorrt() -> None:
    with pytest.raises(InvalidArgument, match="built for onnxruntime only") as raised:
        weight_bytes(_model("qwen3-moe"), GEOMETRY, WeightFormat(Precision.FP16), Target.TENSORRT)
    assert raised.value.violations[0].field == "spec.target"
