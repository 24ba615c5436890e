"""The manifest of an engine: all that a runtime has to know before it loads one. Stored as canonical JSON."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from common.spec.chat.tool_template import Reasoning, ToolTemplate
from common.spec.hardware import Hardware
from common.spec.model_spec import ModelSpec, Target
from common.window import Geometry

GRAPH_PATH = "model.onnx"
WEIGHTS_PATH = "weights.bin"
TOKENIZER_PATH = "tokenizer.json"
PLAN_PATH = "engine.plan"
REPORT_PATH = "inspector.json"
GOLDEN_PATH = "golden.json"
STAND_IN_PATH = "stand-in.onnx"  # of a build alone; no engine has it
MEDIA_TYPES = {
    GRAPH_PATH: "application/vnd.onnx",
    WEIGHTS_PATH: "application/octet-stream",
    TOKENIZER_PATH: "application/json",
    PLAN_PATH: "application/vnd.nvidia.tensorrt.plan",
    REPORT_PATH: "application/json",
    GOLDEN_PATH: "application/json",
}
"""Of each file that an engine may have."""
ENGINE_PATHS = {
    Target.ONNXRUNTIME: (GRAPH_PATH, WEIGHTS_PATH, TOKENIZER_PATH, GOLDEN_PATH),
    Target.TENSORRT: (PLAN_PATH, REPORT_PATH, TOKENIZER_PATH, GOLDEN_PATH),
    Target.TENSORRT_RTX: (PLAN_PATH, TOKENIZER_PATH, GOLDEN_PATH),
    Target.TENSORRT_LLM: (TOKENIZER_PATH,),
}
"""Files of an engine by who executes it; a tokenizer only where text is taken."""

Sha256 = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class EngineFile(_Part):
    """One file of an engine, by digest."""

    path: str
    """Path inside the engine."""
    media_type: str
    """What the file holds."""
    digest: Sha256
    """Digest of its bytes."""
    size_bytes: int
    """Its size."""


class Rope(_Part):
    """Rotary position embedding, with every scaling of the checkpoint applied and fixed by ``n + w``."""

    inverse_frequencies: tuple[float, ...]
    """[rotated numbers of a head / 2], rounded to float32 as Hugging Face rounds them; none where ALiBi is used."""
    attention_scale: float = 1.0
    """Multiplies cosine and sine (YaRN, longrope)."""
    local_inverse_frequencies: tuple[float, ...] = ()
    """Of layers that rotate otherwise than the rest, such as those of Gemma 3 with a window of their own."""
    local_attention_scale: float = 1.0
    """Multiplies cosine and sine in those layers."""


class Architecture(_Part):
    """Shapes of the model."""

    family: str
    """Model family, such as `llama`."""
    layers: int
    """Transformer layers."""
    hidden: int
    """Width of the residual stream."""
    heads: int
    """Query heads."""
    kv_heads: int
    """Key/value heads."""
    head_dim: int
    """Width of a head."""
    intermediate: int
    """Width of the feed-forward layer."""
    vocabulary: int
    """Token ids run from 0 to this, exclusive."""
    trained_context: int
    """Tokens of context that the checkpoint was trained with."""
    sliding_window: int | None = None
    """Tokens that the layers with a window of their own let a token see; None: no layer has one."""
    parameters: int
    """Parameters of the checkpoint."""

    @property
    def longest_context(self) -> int:
        """Most tokens that sinks and window may hold: beyond that, a layer would see what it never saw in training."""
        return min(self.trained_context, self.sliding_window or self.trained_context)


class TurnForm(StrEnum):
    """Orders of messages that not every chat template has."""

    USER_TWICE = "user_twice"
    """Two messages of the user in a row, or a turn without reply that ends with the user's."""
    ASSISTANT_FIRST = "assistant_first"
    """A turn that begins with a message of the assistant."""
    ASSISTANT_TWICE = "assistant_twice"
    """Two messages of the assistant in a row."""
    REPLY_TO_ASSISTANT = "reply_to_assistant"
    """A reply to messages that end with the assistant's."""


class TurnTemplate(_Part):
    """How a chat template wraps a conversation, cut where the content goes.

    A conversation is ``opening`` (or ``system_before + prompt + system_after``), then for every turn
    ``user_before + text + user_after + assistant_before + reply + assistant_after``. Parts are token ids;
    content is encoded on its own and never to control tokens.
    """

    opening: tuple[int, ...]
    """First tokens of a conversation without a system prompt, such as the begin token."""
    system_before: tuple[int, ...] | None
    """First tokens of a conversation with a system prompt, up to the prompt; None: no system prompts."""
    system_suffix: str = ""
    """Text behind the system prompt that is encoded together with it."""
    system_after: tuple[int, ...] = ()
    """Tokens after the system prompt."""
    user_before: tuple[int, ...]
    """Tokens before what a user says."""
    first_user_before: tuple[int, ...] | None = None
    """The same for the first message, without a system prompt; None: like the others."""
    system_user_before: tuple[int, ...] | None = None
    """The same for the first message behind a system prompt, such as none where the template puts the prompt into that
    message; None: like the others."""
    system_unspaced: bool = False
    """The system prompt and the first message behind it are encoded without the space that the tokenizer puts before
    texts."""
    user_suffix: str = ""
    """Text behind what a user says that is encoded together with it."""
    user_after: tuple[int, ...]
    """Tokens after what a user says."""
    assistant_before: tuple[int, ...]
    """Tokens before a reply: the generation prompt."""
    earlier_before: tuple[int, ...] | None = None
    """Tokens before a reply that is given as a message; None: the generation prompt."""
    assistant_after: tuple[int, ...]
    """Tokens after a reply: the closing. Its first may be the end token that the model generates itself."""
    strip_content: bool = False
    """The template strips white space around contents."""
    unproven: tuple[TurnForm, ...] = ()
    """Turns that the chat template refuses, or has other tokens for than its parts make; a runtime refuses them."""
    tools: ToolTemplate | None = None
    """How tools are declared, called and answered; None: sessions have none."""
    no_tools: str = ""
    """Why there are none."""
    reasoning: Reasoning | None = None
    """How what a model thinks is marked; None: it is not."""


class TemplateVariant(_Part):
    """How turns are wrapped in sessions that choose other values than the first of the spec's `template_variables`."""

    variables: dict[str, bool | int | float | str]
    """Every variable that has choices, and its value."""
    template: TurnTemplate
    """How turns are wrapped then."""


class TextModel(_Part):
    """How text becomes tokens; None in the manifest where an engine takes token ids only."""

    template: TurnTemplate
    """How turns are wrapped, with the first of every choice."""
    variants: tuple[TemplateVariant, ...] = ()
    """The same for the other combinations of choices; one that is missing could not be proven."""
    warnings: tuple[str, ...] = ()
    """What the derivation had to say, such as a template that rewrites earlier turns."""


class GenerationDefaults(_Part):
    """What the checkpoint's generation_config.json says; None where it says nothing."""

    do_sample: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    max_new_tokens: int | None = None
    stop_strings: tuple[str, ...] | None = None


class Manifest(_Part):
    """An engine, whole. Its digest is the sha256 of its canonical bytes."""

    model_config = ConfigDict(
        title="Manifest of a SinkServe engine, format 1",
        json_schema_extra={
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "$id": "https://sinkserve.dev/schemas/manifest-1.schema.json",
        },
    )

    format: Literal[1] = 1
    """Version of this layout."""
    name: str
    """Name of the engine."""
    version: int
    """Version, counted per name."""
    spec: ModelSpec
    """The spec it was built from."""
    architecture: Architecture
    """Shapes of the model."""
    rope: Rope
    """Rotary position embedding."""
    end_token_ids: tuple[int, ...]
    """Tokens that end a turn when they are generated."""
    generation: GenerationDefaults = GenerationDefaults()
    """Defaults of the checkpoint for sampling."""
    text: TextModel | None
    """How text becomes tokens; None: token ids only."""
    kv_bytes_per_slot: int
    """Bytes of keys and values of one slot."""
    weight_bytes: int
    """Bytes of weights."""
    hardware: Hardware | None = None
    """What a runtime needs to have; None: any machine."""
    tolerance: float | None
    """Mean divergence of predictions, in nats, that VERIFY accepts; None: nothing was verified."""
    build_key: Sha256
    """Digest over the source files, the spec without name and uri, and the tool versions."""
    source_files: tuple[EngineFile, ...]
    """The checkpoint's files that the engine was made from."""
    tool_versions: dict[str, str]
    """Versions of the tools that made it, and what else decided: the machine it was compiled on, a template's date."""
    files: tuple[EngineFile, ...]
    """The engine's own files, by path."""
    network: dict[str, int] = {}
    """Layers of the network that was compiled, by kind; empty: none was."""
    verification: dict[str, float]
    """What VERIFY measured."""
    verified_on: str = ""
    """What ran the engine when VERIFY measured: `cpu`, the name of a GPU, or `cpu stand-in` where the hardware that the
    engine was compiled for was not there. Empty: nothing did."""
    warnings: tuple[str, ...] = ()
    """Things a person should know."""

    @property
    def geometry(self) -> Geometry:
        """The cache as the planner sees it."""
        return self.spec.geometry

    @property
    def reference(self) -> str:
        """NAME@VERSION."""
        return f"{self.name}@{self.version}"

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.size_bytes for file in self.files)

    def canonical(self) -> bytes:
        """The bytes that are stored and digested: the same for equal manifests.

        Raises ValueError for a number that JSON does not have: infinity, or none at all.
        """
        data = self.model_dump(mode="json")
        text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return text.encode()
