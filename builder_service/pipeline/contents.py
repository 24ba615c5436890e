"""What a build reads of a checkpoint before its weights: PLAN goes on with it, and `spec check` shows it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from builder_service.chat.derive import DerivedText, derive_text
from builder_service.checkpoint.adapter.checkpoint import AdaptedCheckpoint
from builder_service.checkpoint.checkpoint import Checkpoint
from builder_service.checkpoint.files import invalid
from builder_service.checkpoint.folder import FolderCheckpoint
from builder_service.checkpoint.generation_config import end_tokens, generation_defaults, not_honoured
from builder_service.families.registry import read_model
from builder_service.model.model import EMBEDDING, HEAD, Model, check_geometry
from builder_service.model.tensors import ModelTensors
from common.panics import Panicked, panics_as_errors
from common.spec.manifest import TOKENIZER_PATH, GenerationDefaults
from common.spec.model_spec import ModelSpec, Precision, Target


@dataclass(frozen=True)
class Contents:
    """The model, how it handles text, and how it generates."""

    model: Model
    text: DerivedText
    end_token_ids: tuple[int, ...]
    generation: GenerationDefaults
    warnings: tuple[str, ...]
    """What a person should know."""


def read_contents(spec: ModelSpec, checkpoint: Checkpoint, now: datetime) -> Contents:
    """Everything but the tensors. Raises what reading a part of the checkpoint raises."""
    model = _read_model(spec, checkpoint)
    vocabulary = model.architecture.vocabulary
    try:
        with panics_as_errors():
            text = derive_text(checkpoint, spec.chat_template, vocabulary, now, spec.template_variables)
    except Panicked as error:
        raise invalid(f"the tokenizer cannot be used: {error}", file=TOKENIZER_PATH) from error
    ends = end_tokens(checkpoint.config, checkpoint.generation_config, vocabulary)
    return Contents(
        model=model,
        text=text,
        end_token_ids=tuple(sorted({*ends, *text.end_token_ids})),
        generation=generation_defaults(checkpoint.generation_config),
        warnings=(*text.warnings, *not_honoured(checkpoint.generation_config), *_rounded_again(spec, checkpoint)),
    )


def settled(spec: ModelSpec, checkpoint: Checkpoint) -> ModelSpec:
    """The spec with its precision said: of packed weights their own, where the spec leaves it open."""
    packed = isinstance(checkpoint, FolderCheckpoint) and checkpoint.packing is not None
    keep = packed and spec.target is Target.ONNXRUNTIME and not spec.says_precision
    return spec.model_copy(update={"precision": Precision.KEEP if keep else spec.precision})


def read_tensors(spec: ModelSpec, checkpoint: Checkpoint, model: Model) -> ModelTensors:
    """The model's tensors, whose names, shapes and types are checked where the builder reads them."""
    if isinstance(checkpoint, AdaptedCheckpoint) and model.tied:
        checkpoint.check_shared([model.names.piece(model.architecture, name).tensor for name in (EMBEDDING, HEAD)])
    tensors = ModelTensors(checkpoint.tensors, model)
    if not reads_checkpoint_itself(spec):
        tensors.check()
    return tensors


def _read_model(spec: ModelSpec, checkpoint: Checkpoint) -> Model:
    ignored = spec.options.ignore_config_fields
    if reads_checkpoint_itself(spec):
        ignored = (*ignored, "quantization_config")
    model = read_model(checkpoint.config, ignored)
    check_geometry(model.architecture, spec.geometry)
    return model


def _rounded_again(spec: ModelSpec, checkpoint: Checkpoint) -> tuple[str, ...]:
    """What to say of a precision that does not hold packed weights as they are, where another would."""
    packed = isinstance(checkpoint, FolderCheckpoint) and checkpoint.packing is not None
    if not packed or spec.target is not Target.ONNXRUNTIME or spec.precision is Precision.KEEP:
        return ()
    told = "many times larger" if spec.precision is Precision.FP32 else "rounded once more"
    return (
        f"the checkpoint's weights are quantized; in {spec.precision} they are {told}: precision: keep is as small",
    )


def reads_checkpoint_itself(spec: ModelSpec) -> bool:
    """Whether the target reads the checkpoint's weights at load, quantized or not; the builder writes none then."""
    return spec.target is Target.TENSORRT_LLM
