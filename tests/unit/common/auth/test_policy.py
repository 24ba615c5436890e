"""Which roles and engines a policy gives."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.auth.policy import Policy, Rule, read_policy
from common.auth.principal import EngineScope, Principal, Role

TEXT = b"""
rules:
  - {principals: ["key:ops", "cert:spiffe://example.org/ops/*"], roles: [admin]}
  - {principals: ["jwt:*@example.com"], roles: [talk], engines: [demo, "chat-*"]}
  - {principals: ["jwt:*"], roles: []}
"""


def test_the_first_rule_that_names_a_principal_holds() -> None:
    policy = read_policy(TEXT)
    assert policy.principal("key:ops").has(Role.BUILD), "an admin may do all"
    assert policy.principal("cert:spiffe://example.org/ops/a/b").owner is None
    ann = policy.principal("jwt:ann@example.com")
    assert (set(ann.roles), ann.engines, ann.owner) == ({Role.TALK}, ("demo", "chat-*"), "jwt:ann@example.com")
    assert not ann.has(Role.BUILD)
    for nobody in ("jwt:bob@example.org", "key:bob", "ops", "xjwt:ann@example.com"):
        assert not any(policy.principal(nobody).has(role) for role in Role)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"rules: [{principals: [a], roles: [root]}]", "rules.0.roles.0"),
        (b"rules: [{principals: [], roles: [talk]}]", "rules.0.principals"),
        (b"rules: [{principals: [a], roles: [talk], quotas: {bytes: 3}}]", "rules.0.quotas.bytes"),
        (b"rules: [{principals: [a], roles: [talk], quotas: {sessions: -1}}]", "rules.0.quotas.sessions"),
        (b"rules: [{principals: [a], roles: [talk], quotas: {waiting_turns: many}}]", "rules.0.quotas.waiting_turns"),
        (b"rules: [{principals: [a], roles: [talk], engines: ['a*b']}]", "rules.0.engines.0"),
        (b"rule: []", "rules"),
        (b"rules: []\nrules: []", "'rules' is given twice, in line 1 and line 2"),
        (b"rules: [{principals: [a], roles: [talk], quotas: {sessions: 1, sessions: 9}}]", "'sessions' is given twice"),
        (b"", "valid dictionary"),
        (b"rules: [", "not YAML"),
        (b"[" * 100_000, "not YAML"),
        (b'rules: !!int ""', "not YAML"),
        (b"!!bool x", "not YAML"),
        (b"!!timestamp x", "not YAML"),
        (b"rules: 2024-99-99", "not YAML"),
    ],
)
def test_what_is_wrong_is_named(text: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_policy(text)


NAMES = st.text("ab:*/.", max_size=8)


@given(NAMES, NAMES, NAMES)
def test_a_star_stands_for_any_characters_and_nothing_else_does(before: str, between: str, after: str) -> None:
    plain = before.replace("*", "x")
    rule = Rule(principals=(f"{plain}*{after.replace('*', 'y')}",), roles=())
    assert rule.names(plain + between + after.replace("*", "y"))
    assert Rule(principals=(plain,), roles=()).names(plain)
    assert not Rule(principals=(plain,), roles=()).names(plain + between + "z")


ENGINES = st.text("ab-", min_size=1, max_size=4)


@given(ENGINES, ENGINES, st.sampled_from(["me", "other"]))
def test_what_is_own_or_shared_is_covered_and_nothing_else(name: str, shared: str, owner: str) -> None:
    assert EngineScope("me", (shared,)).covers(name, owner) == (owner == "me" or name == shared)
    assert EngineScope("me", (shared + "*",)).covers(name, owner) == (owner == "me" or name.startswith(shared))
    assert EngineScope(None).covers(name, owner)


def test_only_who_is_known_can_see_all() -> None:
    anybody = Policy(rules=(Rule(principals=("local",), roles=(Role.ADMIN,)),))
    assert anybody.principal("local", authenticated=False).owner == "local"
    assert Principal("a", frozenset({Role.ADMIN})).owner is None
