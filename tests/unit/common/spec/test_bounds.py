"""Texts and lists of a spec have bounds, told by field; a longer one that was kept before can still be shown."""

from __future__ import annotations

from typing import Any

import pytest

from common.errors import InvalidArgument, Reason
from common.spec.bounds import LARGEST_NUMBER, LONGEST_TEMPLATE, LONGEST_VALUE, MOST_IGNORED, bound_violations, shown
from common.spec.checks import check_spec
from common.spec.model_spec import BuildOptions, ModelSpec, Source

BASE: dict[str, Any] = {"name": "demo", "source": {"uri": "/m"}}


@pytest.mark.parametrize(
    ("fields", "field", "said"),
    [
        ({"source": {"uri": "/" + "x" * 4096}}, "source.uri", "has 4097 bytes; at most 4096 are allowed"),
        ({"source": {"uri": "/m", "revision": "x" * 256}}, "source.revision", "at most 255"),
        ({"source": {"uri": "/m", "adapter": "/" + "x" * 4096}}, "source.adapter", "at most 4096"),
        ({"chat_template": "é" * (LONGEST_TEMPLATE // 2) + "x"}, "chat_template", f"at most {LONGEST_TEMPLATE}"),
        ({"template_variables": {"a": "x" * (LONGEST_VALUE + 1)}}, "template_variables.a", f"at most {LONGEST_VALUE}"),
        ({"template_variables": {"a": ["x", "y" * (LONGEST_VALUE + 1)]}}, "template_variables.a", "at most"),
        ({"template_variables": {"a" * 256: 1}}, "template_variables." + "a" * 255, "its name has 256 bytes"),
        ({"template_variables": {"a": LARGEST_NUMBER + 1}}, "template_variables.a", str(LARGEST_NUMBER)),
        (
            {"options": {"ignore_config_fields": ["x"] * (MOST_IGNORED + 1)}},
            "options.ignore_config_fields",
            f"has {MOST_IGNORED + 1} names; at most {MOST_IGNORED}",
        ),
        ({"options": {"ignore_config_fields": ["x", "y" * 256]}}, "options.ignore_config_fields.1", "at most 255"),
        (
            {"target": "tensorrt_llm", "precision": "fp16", "options": {"tensorrt_llm": {"version": "1." + "1" * 64}}},
            "options.tensorrt_llm.version",
            "at most 64",
        ),
        (
            {"target": "tensorrt", "hardware": {"compute_capability": "9." + "0" * 64}},
            "hardware.compute_capability",
            "at most 64",
        ),
    ],
)
def test_what_is_too_long_is_told_by_field(fields: dict[str, Any], field: str, said: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_spec({**BASE, **fields})
    assert caught.value.reason is Reason.INVALID_SPEC
    (violation,) = caught.value.violations
    assert violation.field == f"spec.{field}"
    assert said in violation.description


def test_as_long_as_it_may_be_is_taken() -> None:
    whole = {
        "chat_template": "x" * LONGEST_TEMPLATE,
        "template_variables": {"a" * 255: "x" * LONGEST_VALUE, "b": -LARGEST_NUMBER, "c": True, "d": 1e300},
        "options": {"ignore_config_fields": ["x" * 255] * MOST_IGNORED},
    }
    spec = check_spec({**BASE, **whole})
    assert shown(spec) is spec


def test_a_spec_from_before_there_were_bounds_is_shown_within_them() -> None:
    old = ModelSpec(
        name="demo",
        source=Source(uri="/m"),
        chat_template="x" * (LONGEST_TEMPLATE + 1),
        template_variables={"a": ("y", "x" * 10**6), "b": 2.5},
        options=BuildOptions(ignore_config_fields=("x" * 300,) * 300),
    )
    assert any(bound_violations(old))
    told = shown(ModelSpec.model_validate_json(old.model_dump_json()))
    assert told.chat_template == "x" * LONGEST_TEMPLATE + f"... ({LONGEST_TEMPLATE + 1} bytes)"
    assert told.template_variables["b"] == 2.5
    assert len(told.model_dump_json()) < 1 << 20
