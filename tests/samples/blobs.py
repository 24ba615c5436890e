"""Bytes to put into stores: a few, and more than are read at once."""

from __future__ import annotations

import random

from common.digest import CHUNK_BYTES, digest_of

DATA = b"weights" * 1000
DIGEST = digest_of(DATA)
LARGE = random.Random(0).randbytes(5 * CHUNK_BYTES) + b"and a rest"
