"""The promises of `common.engine.engine.Engine` on a GPU: all the tests of `tests/contract/test_engine.py`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from common.engine.engine import FloatArray
from common.spec.model_spec import Precision
from tests.contract import test_engine as contract
from tests.fakes.gpu import build_tensorrt_engine
from tests.gpu.borrowed import public_names
from tests.gpu.tolerances import TOLERANCES
from tests.samples.checkpoints import write_checkpoint

pytestmark = pytest.mark.gpu

globals().update(public_names(contract, but={"make", "close"}))


@pytest.fixture(scope="module", params=list(TOLERANCES))
def make(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> contract.MakeEngine:
    """Makers of engines of one precision.

    Heads are so wide that every slot begins at an aligned address: so a session has the same shapes of steps in every
    slot, and what the contract promises bit by bit for the same shapes can be asked for.
    """
    folder = write_checkpoint(tmp_path_factory.mktemp("checkpoint"), hidden=64, head_dim=64, tokenizer=False)
    return lambda geometry: build_tensorrt_engine(folder, geometry, request.param)


@pytest.fixture
def close(request: pytest.FixtureRequest) -> Callable[[FloatArray, FloatArray], bool]:
    bound = TOLERANCES[Precision(request.node.callspec.params["make"])]
    return lambda got, want: bool(np.abs(got - want).max() <= bound * np.abs(want).max())


def test_every_slot_is_aligned_so_that_shapes_are_the_same_in_all(make: contract.MakeEngine) -> None:
    engine = make(contract.GEOMETRY)
    assert engine.slot_multiple == 1
    engine.close()
