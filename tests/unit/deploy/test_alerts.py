"""Alerts ask for metrics that exist, fire when they should by promtool's own tests, and each has its page."""

from __future__ import annotations

import re
import subprocess
from typing import Any

import pytest
import yaml

from builder_service.queue.build import State
from common.errors import Reason
from deploy.grafana.definitions import all_definitions
from tests.servers.debian_programs import find_program
from tests.unit.deploy.cluster import DEPLOY

FOLDER = DEPLOY / "prometheus"
PAGE = (DEPLOY.parent / "docs" / "operate" / "alerts.md").read_text()
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"] for rule in group["rules"]
]
NAMES = [rule["alert"] for rule in RULES]


@pytest.mark.long
def test_each_fires_and_keeps_quiet_as_it_should() -> None:
    promtool = find_program("usr/bin/promtool", "prometheus", version="--version", required=False)
    command = (promtool, "test", "rules", FOLDER / "alerts_test.yaml")
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_each_is_tested_to_fire_and_to_keep_quiet() -> None:
    tests = [
        each
        for test in yaml.safe_load((FOLDER / "alerts_test.yaml").read_text())["tests"]
        for each in test["alert_rule_test"]
    ]
    assert {each["alertname"] for each in tests if each["exp_alerts"]} == set(NAMES)


@pytest.mark.parametrize("rule", RULES, ids=NAMES)
def test_each_asks_for_what_exists(rule: dict[str, Any]) -> None:
    wanted = re.findall(r"sinkserve_[\w()|]*\w", rule["expr"].replace("(runtime|builder)", "runtime"))
    assert wanted
    assert {name.removesuffix("_bucket") for name in wanted} <= set(all_definitions())
    for states in re.findall(r'state="(\w+)"', rule["expr"]):
        assert states in {state.value for state in State}
    for reasons in re.findall(r'reason=~"([\w|]+)"', rule["expr"]):
        assert set(reasons.split("|")) <= {reason.value for reason in Reason}


@pytest.mark.parametrize("rule", RULES, ids=NAMES)
def test_each_says_what_to_do_on_the_page(rule: dict[str, Any]) -> None:
    assert f"\n## {rule['alert']}\n" in PAGE
    assert rule["annotations"]["runbook"] == f"docs/operate/alerts.md#{rule['alert'].lower()}"


def test_the_page_has_no_other_alerts() -> None:
    assert re.findall(r"^## (SinkServe\w+)$", PAGE, re.MULTILINE) == NAMES
