"""Models that also see images: the text half of Mistral 3 and of Gemma 3, whose tensors lie behind a prefix."""

from __future__ import annotations

from builder_service.families.family import Wrapper
from builder_service.families.gemma import GEMMAS
from builder_service.families.llama import MISTRAL
from builder_service.model.config_fields import Fields

PREFIX = "language_model."
_USED = frozenset({"text_config", "tie_word_embeddings"})  # tied or not is said by `text_config`

WITH_IMAGES = (
    Wrapper(
        "mistral3",
        ("Mistral3ForConditionalGeneration",),
        Fields(
            _USED,
            harmless=frozenset(
                "vision_config image_token_id image_token_index projector_hidden_act vision_feature_layer "  # noqa: SIM905 - a list of words
                "spatial_merge_size multimodal_projector_bias".split()
            ),
        ),
        (MISTRAL,),
        PREFIX,
    ),
    Wrapper(
        "gemma3",
        ("Gemma3ForConditionalGeneration",),
        Fields(
            _USED,
            harmless=frozenset(
                "vision_config boi_token_index eoi_token_index image_token_index boi_token_id eoi_token_id "  # noqa: SIM905 - a list of words
                "image_token_id mm_tokens_per_image".split()
            ),
        ),
        (GEMMAS[-1],),
        PREFIX,
    ),
)
