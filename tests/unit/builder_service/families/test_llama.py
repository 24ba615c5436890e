from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from builder_service.checkpoint.folder import open_checkpoint
from builder_service.families.registry import read_architecture, read_model, read_rope
from builder_service.model.model import check_geometry, tensor_shapes
from builder_service.model.tensors import ModelTensors
from common.errors import InvalidArgument, Reason
from common.window import Geometry
from tests.samples.checkpoints import write_checkpoint

TINYLLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "intermediate_size": 5632,
    "max_position_embeddings": 2048,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 22,
    "num_key_value_heads": 4,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.35.0",
    "use_cache": True,
    "vocab_size": 32000,
}


def _with(**fields: Any) -> dict[str, Any]:
    return TINYLLAMA | fields


def _without(name: str) -> dict[str, Any]:
    return {key: value for key, value in TINYLLAMA.items() if key != name}


def test_a_real_config_is_read() -> None:
    shapes = read_architecture(TINYLLAMA)
    assert (shapes.layers, shapes.hidden, shapes.heads, shapes.kv_heads, shapes.head_dim) == (22, 2048, 32, 4, 64)
    assert (shapes.intermediate, shapes.vocabulary, shapes.trained_context) == (5632, 32000, 2048)
    assert shapes.parameters == 1_100_048_384


def test_parameters_are_those_of_the_file(tmp_path: Path) -> None:
    for index, overrides in enumerate([{}, {"tied": True}, {"bias": True}]):
        checkpoint = open_checkpoint(write_checkpoint(tmp_path / str(index), **overrides))  # type: ignore[arg-type]
        stored = sum(int(np.prod(checkpoint.tensors.shape(name))) for name in checkpoint.tensors.names)
        assert read_architecture(checkpoint.config).parameters == stored


def test_absent_fields_mean_what_hugging_face_means() -> None:
    old = _without("num_key_value_heads")
    assert read_architecture(old).kv_heads == 32
    model = read_model({key: old[key] for key in old if not key.startswith(("rms", "tie", "max", "attention"))})
    assert (model.norm.epsilon, model.tied, model.architecture.trained_context) == (1e-6, False, 2048)
    assert not model.attention_bias


def test_an_explicit_head_dim_wins() -> None:
    shapes = read_architecture(_with(head_dim=128))
    assert shapes.head_dim == 128
    assert tensor_shapes(read_model(_with(head_dim=128)))["model.layers.0.self_attn.q_proj.weight"] == (4096, 2048)


def test_tied_models_need_no_output_matrix() -> None:
    assert "lm_head.weight" not in tensor_shapes(read_model(_with(tie_word_embeddings=True)))
    assert "lm_head.weight" in tensor_shapes(read_model(TINYLLAMA))


def test_biases_are_needed_where_the_config_has_them() -> None:
    biased = tensor_shapes(read_model(_with(attention_bias=True, mlp_bias=True)))
    assert biased["model.layers.3.self_attn.k_proj.bias"] == (256,)
    assert biased["model.layers.3.mlp.down_proj.bias"] == (2048,)
    assert not any(name.endswith("bias") for name in tensor_shapes(read_model(TINYLLAMA)))


@pytest.mark.parametrize(
    "fields",
    [
        {"dtype": "bfloat16", "head_dim": None, "mlp_bias": None},
        {"sliding_window": None, "quantization_config": None, "is_encoder_decoder": False, "pruned_heads": {}},
        {"_name_or_path": "x", "id2label": {"0": "a"}, "temperature": 0.7, "attn_implementation": None},
        {"pretraining_tp": 4, "hidden_act": "swish", "rope_interleaved": False, "partial_rotary_factor": 1.0},
    ],
)
def test_fields_that_change_nothing_are_accepted(fields: dict[str, Any]) -> None:
    assert read_model(_with(**fields)) == read_model(TINYLLAMA)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden_act", "gelu"),
        ("sliding_window", 4096),
        ("quantization_config", {"bits": 4}),
        ("partial_rotary_factor", 0.5),
        ("logit_softcapping", 30.0),
        ("residual_multiplier", 0.22),
        ("auto_map", {"AutoModel": "modeling.py"}),
        ("rope_interleaved", True),
        ("num_attention_heads", 0),
        ("num_hidden_layers", "22"),
        ("vocab_size", True),
        ("head_dim", 63),
        ("num_key_value_heads", 5),
        ("rms_norm_eps", "small"),
        ("rms_norm_eps", -1.0),
        ("tie_word_embeddings", "yes"),
        ("max_position_embeddings", 0),
        ("intermediate_size", 1.5),
    ],
)
def test_what_changes_the_maths_is_refused_naming_the_field(field: str, value: object) -> None:
    with pytest.raises(InvalidArgument, match=field) as raised:
        read_model(_with(**{field: value}))
    assert raised.value.reason is Reason.CONFIG_UNSUPPORTED
    assert raised.value.violations[0].field.startswith(f"source.config.json.{field}")


@pytest.mark.parametrize("field", ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"])
def test_a_missing_shape_is_refused_naming_the_field(field: str) -> None:
    with pytest.raises(InvalidArgument, match=field):
        read_model(_without(field))


def test_heads_that_do_not_divide_the_width_need_a_head_dim() -> None:
    with pytest.raises(InvalidArgument, match="head_dim is not given"):
        read_model(_with(num_attention_heads=30, num_key_value_heads=30))
    assert read_architecture(_with(num_attention_heads=30, num_key_value_heads=30, head_dim=64)).heads == 30


def test_an_unknown_field_says_how_to_go_on_and_is_accepted_when_listed() -> None:
    config = _with(my_tracking_id="abc")
    with pytest.raises(InvalidArgument, match=r"my_tracking_id.*options\.ignore_config_fields"):
        read_model(config)
    assert read_model(config, ignore=("my_tracking_id",)) == read_model(TINYLLAMA)


def test_all_that_is_wrong_is_told_at_once_with_the_line_that_accepts_what_is_unknown() -> None:
    config = _with(first_new=1, hidden_act="gelu", second_new=[2], known_already=3)
    line = r"--set 'options\.ignore_config_fields=\[known_already, first_new, second_new\]'"
    with pytest.raises(
        InvalidArgument, match=rf"hidden_act = 'gelu'.*first_new = 1, second_new = \[2\].*{line}"
    ) as raised:
        read_model(config, ignore=("known_already",))
    assert {violation.field for violation in raised.value.violations} == {
        f"source.config.json.{name}" for name in ("hidden_act", "first_new", "second_new")
    }


def test_what_a_library_notes_for_itself_changes_nothing() -> None:
    assert read_model(_with(_attn_implementation="sdpa", _commit_hash="x", _new=1)) == read_model(TINYLLAMA)


@pytest.mark.parametrize(
    "fields",
    [
        {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"},
        {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral"},
        {"architectures": ["LlamaForCausalLM"], "model_type": "granite"},
        {"architectures": []},
        {"architectures": None},
        {"architectures": "LlamaForCausalLM"},
    ],
)
def test_an_unknown_architecture_is_refused_listing_what_is_supported(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match="supported: LlamaForCausalLM") as raised:
        read_model(_with(**fields))
    assert raised.value.reason is Reason.ARCHITECTURE_UNSUPPORTED


def test_a_cache_beyond_the_trained_context_is_refused_with_the_numbers() -> None:
    shapes = read_architecture(TINYLLAMA)
    check_geometry(shapes, Geometry(sinks=4, window=2044, chunk=64, slots=1))
    with pytest.raises(InvalidArgument, match=r"2045.*4 sinks.*2049.*2048.*at most 2044") as raised:
        check_geometry(shapes, Geometry(sinks=4, window=2045, chunk=64, slots=1))
    assert raised.value.reason is Reason.INVALID_SPEC
    assert raised.value.violations[0].field == "spec.cache.window_tokens"
    with pytest.raises(InvalidArgument, match=r"spec\.cache\.sink_tokens first"):
        check_geometry(shapes, Geometry(sinks=4000, window=1, chunk=64, slots=1))


def test_a_stretched_context_allows_a_longer_window() -> None:
    stretched = read_architecture(_with(rope_scaling={"type": "linear", "factor": 2.0}))
    check_geometry(stretched, Geometry(sinks=0, window=4096, chunk=64, slots=1))


def test_rotation_that_depends_on_length_is_fixed_by_the_cache() -> None:
    config = _with(rope_scaling={"type": "dynamic", "factor": 2.0})
    short, long = (
        read_rope(read_model(config), Geometry(sinks=8, window=window, chunk=1, slots=1)) for window in (2040, 2041)
    )
    assert short.inverse_frequencies == read_rope(read_model(TINYLLAMA), Geometry(8, 2040, 1, 1)).inverse_frequencies
    assert long.inverse_frequencies[5] < short.inverse_frequencies[5]


def test_a_tensor_that_config_does_not_speak_of_is_refused_by_name(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_checkpoint(tmp_path / "c", bias=True))
    silent = checkpoint.config | {"attention_bias": False}
    with pytest.raises(InvalidArgument, match=r"tensor model\.layers\.0\.self_attn\.k_proj\.bias") as raised:
        ModelTensors(checkpoint.tensors, read_model(silent)).check()
    assert raised.value.reason is Reason.CHECKPOINT_INVALID


def test_frequencies_that_old_checkpoints_store_are_left_alone(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "c")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(4, np.float32)
    save_file(tensors, folder / "model.safetensors")
    checkpoint = open_checkpoint(folder)
    ModelTensors(checkpoint.tensors, read_model(checkpoint.config)).check()


def test_a_checkpoint_that_is_not_what_its_config_says_is_refused(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_checkpoint(tmp_path / "c"))
    ModelTensors(checkpoint.tensors, read_model(checkpoint.config)).check()
    for field, tensor in (("num_hidden_layers", "model.layers.2"), ("vocab_size", "embed_tokens")):
        wrong = checkpoint.config | {field: checkpoint.config[field] + 1}
        with pytest.raises(InvalidArgument, match=tensor) as raised:
            ModelTensors(checkpoint.tensors, read_model(wrong)).check()
        assert raised.value.reason is Reason.CHECKPOINT_INVALID
