"""A LoRA adapter in a folder as peft writes it: which tensors of a model it changes, and how.

Names in the file are those of modules of the model in memory, behind `base_model.model.`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from builder_service.checkpoint.adapter.config import ADAPTER_CONFIG, read_config, refused
from builder_service.checkpoint.checkpoint import FloatArray
from builder_service.checkpoint.files import FIELD, invalid, present, said_of_adapter
from builder_service.checkpoint.safetensors import SafetensorsFiles
from common.errors import NotFound, Reason, SinkServeError

ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_FILES = (ADAPTER_CONFIG, ADAPTER_WEIGHTS)
PICKLED = "adapter_model.bin"
_PREFIX = "base_model.model."
_LOW_RANK = re.compile(
    r"(.+)\.(lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)(?:\.default)?(?:\.weight)?"
)
_WHOLE = re.compile(r"(.+?)(?:\.base_layer|\.modules_to_save(?:\.default)?)?\.(weight|bias)")
_CONVERT = (
    f"python -c \"import torch, safetensors.torch; weights = torch.load('{PICKLED}', map_location='cpu', "
    "weights_only=True); safetensors.torch.save_file({name: tensor.contiguous().clone() for name, tensor in "
    f"weights.items()}}, '{ADAPTER_WEIGHTS}')\""
)


@dataclass
class Change:
    """What an adapter has for one tensor of the model: names in its file; empty where it has none."""

    module: str
    """The module's name in the model."""
    whole: str = ""
    """The tensor itself, in place of the model's."""
    down: str = ""
    """[rank, inputs]; of an embedding [rank, tokens]."""
    up: str = ""
    """[outputs, rank]; of an embedding [width, rank]."""
    magnitude: str = ""
    """[outputs]: how long each row is in the end."""
    embedding: bool = False
    """Whether the product is the tensor transposed."""


class Adapter:
    """An adapter whose config is read and whose header is checked."""

    def __init__(self, folder: Path) -> None:
        """Raises InvalidArgument: CHECKPOINT_INVALID for what is damaged, INVALID_SPEC for what is not merged."""
        self.folder = folder
        self.config = read_config(folder)
        self.stored = SafetensorsFiles((folder / ADAPTER_WEIGHTS,))
        self.changes = self._read_changes()

    @property
    def files(self) -> tuple[Path, ...]:
        """All of it that an engine is made from."""
        return tuple(self.folder / name for name in ADAPTER_FILES)

    def factors(self, change: Change) -> tuple[FloatArray, FloatArray]:
        """Two matrices whose product is added to the tensor: [rows, rank] and [rank, columns]."""
        with said_of_adapter():
            down, up = self.stored.tensor(change.down), self.stored.tensor(change.up)
        left, right = (down.T, up.T) if change.embedding else (up, down)
        return left * left.dtype.type(self.config.scale_of(change.module)), right

    def factor_shapes(self, change: Change) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of what `factors` gives."""
        down, up = self.stored.shape(change.down), self.stored.shape(change.up)
        return (down[::-1], up[::-1]) if change.embedding else (up, down)

    def _read_changes(self) -> Mapping[str, Change]:
        """By the tensor's name in the model; both matrices of a product are there, and the rank is what config says."""
        found: dict[str, Change] = {}
        for name in self.stored.names:
            _add(found, name)
        for change in found.values():
            if change.down or change.up or change.magnitude:
                self._check_product(change)
        if not found:
            raise invalid(f"{ADAPTER_WEIGHTS} has no tensor", file=ADAPTER_WEIGHTS)
        return found

    def _check_product(self, change: Change) -> None:
        for missing, part in ((change.down, "lora_A"), (change.up, "lora_B")):
            if not missing:
                raise invalid(f"{ADAPTER_WEIGHTS} has no {part} of {change.module}", file=ADAPTER_WEIGHTS)
        wanted = self.config.rank_of(change.module)
        ranks = self.stored.shape(change.down)[:1], self.stored.shape(change.up)[-1:]
        if ranks != ((wanted,), (wanted,)):
            found = " and ".join(str(list(self.stored.shape(name))) for name in (change.down, change.up))
            message = f"the matrices of {change.module} in {ADAPTER_WEIGHTS} are {found}; {ADAPTER_CONFIG} says that "
            raise invalid(f"{message}its rank is {wanted}", file=ADAPTER_WEIGHTS, tensor=change.down)
        if bool(change.magnitude) is not self.config.magnitudes:
            message = f"{change.module} has {'a' if change.magnitude else 'no'} lora_magnitude_vector, and "
            message += f"{ADAPTER_CONFIG} has use_dora = {str(self.config.magnitudes).lower()}"
            raise invalid(message, file=ADAPTER_WEIGHTS, tensor=change.down)
        if change.magnitude and change.embedding:
            message = f"{change.module} is an embedding with a lora_magnitude_vector (use_dora), which is not merged"
            raise refused(f"{message}; merge with peft (merge_and_unload)", file=ADAPTER_WEIGHTS, tensor=change.down)


def open_adapter(folder: Path, check: Callable[[Sequence[Path]], None] = lambda _: None) -> Adapter:
    """The adapter in a folder. `check` is given its files before they are read, and may raise.

    Raises what `Adapter` and `adapter_files` do.
    """
    if not folder.is_dir():
        raise NotFound(Reason.SOURCE_NOT_FOUND, f"{FIELD}: no folder at {folder}", field=FIELD, uri=folder)
    names = {
        path.name for path in folder.iterdir() if path.name == PICKLED or (path.name in ADAPTER_FILES and present(path))
    }
    files = adapter_files(names, str(folder), f"cd {shlex.quote(str(folder))}")
    check([folder / name for name in files])
    return Adapter(folder)


def adapter_files(names: Collection[str], where: str, get_there: str) -> tuple[str, ...]:
    """The files of an adapter, all of which are among `names`.

    Raises NotFound (SOURCE_NOT_FOUND) for what is missing, and InvalidArgument (CHECKPOINT_INVALID) for weights in
    another format, with the command that converts them, which begins with `get_there`.
    """
    missing = next((name for name in ADAPTER_FILES if name not in names), "")
    if missing == ADAPTER_WEIGHTS and PICKLED in names:
        message = f"{where} has its weights in {PICKLED}; only safetensors is read, since older formats run code; this "
        raise invalid(f"{message}converts them, with torch and safetensors: {get_there} && {_CONVERT}", file=PICKLED)
    if missing:
        raise _no_adapter(where, missing)
    return ADAPTER_FILES


def _no_adapter(where: str, missing: str) -> SinkServeError:
    message = f"{FIELD}: {where} has no {missing}; a LoRA adapter as peft saves it is needed"
    return NotFound(Reason.SOURCE_NOT_FOUND, message, field=FIELD, file=missing)


def _add(found: dict[str, Change], name: str) -> None:
    """Note what the tensor `name` of the file is."""
    inner = name.removeprefix(_PREFIX)
    if part := _LOW_RANK.fullmatch(inner):
        module, kind = part[1], part[2]
        change = found.setdefault(f"{module}.weight", Change(module))
        change.embedding |= kind.startswith("lora_embedding")
        field = {"A": "down", "B": "up", "r": "magnitude"}[kind[-1]]
    elif whole := _WHOLE.fullmatch(inner):
        module, field = whole[1], "whole"
        change = found.setdefault(f"{module}.{whole[2]}", Change(module))
    if (not part and not whole) or ".lora_" in module:
        message = f"{ADAPTER_WEIGHTS} has a tensor {name}, and it is not known how that is merged"
        raise refused(f"{message}; merge with peft (merge_and_unload)", file=ADAPTER_WEIGHTS, tensor=name)
    if getattr(change, field):
        raise invalid(f"{name} and {getattr(change, field)} are the same", file=ADAPTER_WEIGHTS, tensor=name)
    setattr(change, field, name)
