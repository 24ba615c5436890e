"""Whole numbers of 4 or 8 bits in words of 32, put in order; arrays of words are as a file stores them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[Any]
_AWQ_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)
"""Where AWQ keeps each of eight numbers in a word."""


def in_last_axis(words: Words, bits: int) -> Bytes:
    """[..., words] as [..., numbers], from the lowest bits of each word."""
    data = np.ascontiguousarray(words).view(np.uint8)
    return data if bits == 8 else np.stack([data & 15, data >> 4], axis=-1).reshape(*data.shape[:-1], -1)


def in_first_axis(words: Words, bits: int) -> Bytes:
    """[words, n] as [n, numbers], likewise."""
    numbers = in_last_axis(words[..., None], bits)  # [words, n, numbers of a word]
    return numbers.swapaxes(0, 1).reshape(words.shape[1], -1)


def in_awq_order(words: Words) -> Bytes:
    """[n, words] as [n, numbers]: of eight columns, those with even numbers come before those with odd ones."""
    numbers = in_last_axis(words, 4)
    return numbers.reshape(len(words), -1, 8)[..., _AWQ_PLACES].reshape(len(words), -1)


def to_bytes(numbers: Bytes, bits: int, filler: int) -> Bytes:
    """[..., numbers] as bytes: of 4 bits two in each, the earlier in the low half; an odd one is followed by
    `filler`.
    """
    if bits == 8:
        return numbers
    even = np.pad(numbers, (*((0, 0),) * (numbers.ndim - 1), (0, numbers.shape[-1] % 2)), constant_values=filler)
    return np.ascontiguousarray(even[..., 0::2] | even[..., 1::2] << np.uint8(4))
