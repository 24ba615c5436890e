"""A source with an adapter, and what it cannot be built for."""

from __future__ import annotations

from typing import Any

import pytest

from common.errors import InvalidArgument
from common.spec.checks import check_spec
from common.spec.model_spec import ModelSpec, Precision, Source


@pytest.mark.parametrize("uri", ["/m", "/m/x.gguf"])
def test_an_adapter_cannot_be_merged_into_what_is_kept_or_read_elsewhere(uri: str) -> None:
    data: dict[str, Any] = {"name": "demo", "source": {"uri": uri, "adapter": "/a"}}
    assert check_spec(data).precision is Precision.FP32
    assert check_spec(data | {"source": Source(uri=uri, adapter="/a")}).precision is Precision.FP32
    with pytest.raises(InvalidArgument, match=r"spec\.precision: 'keep' is wrong: an adapter changes weights"):
        check_spec(data | {"precision": "keep"})
    with pytest.raises(InvalidArgument, match=r"spec\.target: 'tensorrt_llm' .*merge source\.adapter into one"):
        check_spec(data | {"target": "tensorrt_llm", "precision": "bf16"})


def test_a_spec_without_an_adapter_is_written_as_by_releases_that_know_none() -> None:
    assert Source(uri="/m").model_dump() == {"uri": "/m", "revision": ""}
    spec = ModelSpec(name="demo", source=Source(uri="/m", adapter="/a"))
    assert ModelSpec.model_validate_json(spec.model_dump_json()) == spec
