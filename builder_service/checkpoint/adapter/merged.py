"""The tensors of a model with an adapter merged into them as they are read: nothing is written, and no more than a
block of rows is held.

Source: LoRA (arXiv 2106.09685), rsLoRA (arXiv 2312.03732), DoRA (arXiv 2402.09353); as `merge_and_unload` of peft.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from builder_service.checkpoint.adapter.adapter import ADAPTER_WEIGHTS, Adapter, Change
from builder_service.checkpoint.adapter.config import refused
from builder_service.checkpoint.checkpoint import FloatArray, StoredTensors

_IN_FRONT = frozenset({"model", "language_model", "transformer"})
"""What stands before a text model's own names: a module in memory and its tensor on disk may differ in these."""


class MergedTensors:
    """`StoredTensors` of `stored`, changed by an adapter. Nothing of them is kept as it is stored.

    Opening raises InvalidArgument (INVALID_SPEC) for what the adapter changes and the model does not have, or
    has in another shape.
    """

    def __init__(self, stored: StoredTensors, adapter: Adapter) -> None:
        self._stored = stored
        self._adapter = adapter
        names, places = frozenset(stored.names), _places(stored.names)
        self.changes: dict[str, Change] = {}
        for wanted, change in adapter.changes.items():
            name = wanted if wanted in names else places.get(plain_name(wanted), "")
            self._check(name, wanted, change)
            self.changes[name] = change

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all tensors, sorted."""
        return self._stored.names

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, without reading it."""
        return self._stored.shape(name)

    def require(self, name: str, shape: tuple[int, ...]) -> None:
        """Raise unless the tensor `name` exists in `shape`."""
        self._stored.require(name, shape)

    def tensor(self, name: str) -> FloatArray:
        """A whole tensor as float32."""
        return np.concatenate(list(self.blocks(name))).reshape(self.shape(name))

    def blocks(self, name: str, rows: Sequence[range] = ()) -> Iterator[FloatArray]:
        """The tensor's rows, or those in `rows`, as float32, a bounded block at a time."""
        change = self.changes.get(name)
        if change is None:
            return self._stored.blocks(name, rows)
        blocks = self._whole(name, change, rows)
        return self._added(name, change, rows, blocks) if change.down else blocks

    def _whole(self, name: str, change: Change, rows: Sequence[range]) -> Iterator[FloatArray]:
        return self._adapter.stored.blocks(change.whole, rows) if change.whole else self._stored.blocks(name, rows)

    def _added(
        self, name: str, change: Change, rows: Sequence[range], blocks: Iterator[FloatArray]
    ) -> Iterator[FloatArray]:
        """The product is added, and rows are made as long as they are to be."""
        left, right = self._adapter.factors(change)
        lengths = self._adapter.stored.tensor(change.magnitude) if change.magnitude else None
        parts = rows or (range(self.shape(name)[0]),)
        order = np.concatenate([np.arange(part.start, part.stop) for part in parts])
        end = 0
        for block in blocks:
            start, end = end, end + len(block)
            merged = block + left[order[start:end]] @ right
            if lengths is not None:
                own = np.linalg.norm(merged, axis=1)
                merged *= (lengths.reshape(-1)[order[start:end]] / np.maximum(own, np.finfo(np.float32).tiny))[:, None]
            if not np.isfinite(merged).all():
                raise refused(f"{name} is not finite once the adapter is merged", file=ADAPTER_WEIGHTS, tensor=name)
            yield merged

    def _check(self, name: str, wanted: str, change: Change) -> None:
        if not name:
            message = f"the adapter changes {wanted}, which the model does not have{self._trained_with()}"
            raise refused(message, file=ADAPTER_WEIGHTS, tensor=wanted)
        if name in self.changes:
            raise refused(f"the adapter changes {name} twice", file=ADAPTER_WEIGHTS, tensor=name)
        shape, found = self.shape(name), self._shape(change)
        if found != shape:
            message = f"the adapter changes {wanted} as one of shape {list(found)}; the model's has {list(shape)}"
            raise refused(message + self._trained_with(), file=ADAPTER_WEIGHTS, tensor=wanted)

    def _shape(self, change: Change) -> tuple[int, ...]:
        """Of the tensor that a change is made for; the numbers of its parts where these do not fit each other."""
        stored = self._adapter.stored
        shapes = [stored.shape(change.whole)] if change.whole else []
        if change.down:
            left, right = self._adapter.factor_shapes(change)
            shapes.append((left[0], right[-1]))
            if change.magnitude and stored.shape(change.magnitude)[:1] != left[:1]:
                return stored.shape(change.magnitude)
        return shapes[0] if len(set(shapes)) == 1 else tuple(number for shape in shapes for number in shape)

    def _trained_with(self) -> str:
        base = self._adapter.config.base
        return f"; it was trained with {base!r:.200}, and fits no other" if base else "; it was trained with another"


def plain_name(name: str) -> str:
    """A tensor's name without what stands before the text model's own names."""
    parts = name.split(".")
    while len(parts) > 1 and parts[0] in _IN_FRONT:
        parts = parts[1:]
    return ".".join(parts)


def _places(names: Sequence[str]) -> dict[str, str]:
    """Tensors by their plain names, if these are one tensor's only."""
    found: dict[str, str] = {}
    for name in names:
        plain = plain_name(name)
        found[plain] = "" if plain in found else name
    return found
