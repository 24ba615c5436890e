"""Who may do what: a YAML file of rules, of which the first that names a principal holds."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from common.auth.principal import Principal, Role
from common.auth.quotas import UNBOUNDED, Quotas
from common.watched import Watched
from common.yaml_text import read_yaml

_ENGINES = re.compile(r"\*|[a-z0-9][a-z0-9._-]*\*?")


def _check_engines(name: str) -> str:
    if not _ENGINES.fullmatch(name):
        raise ValueError(f"{name[:100]!r} is not the name of an engine, or the beginning of one and '*'")
    return name


class Rule(BaseModel):
    """Roles, engines and quotas of some principals."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    principals: Annotated[tuple[str, ...], Field(min_length=1)]
    """KIND:NAME as a service knows them; `*` stands for any characters."""
    roles: tuple[Role, ...]
    engines: tuple[Annotated[str, AfterValidator(_check_engines)], ...] = ()
    """Engines of others that they may use."""
    quotas: Quotas = UNBOUNDED
    """Of each of them."""

    def names(self, principal: str) -> bool:
        """Whether the rule is about a principal."""
        return any(_matches(pattern, principal) for pattern in self.principals)


class Policy(BaseModel):
    """All rules. Whom none names has no role, and so may do nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rules: tuple[Rule, ...]

    def principal(self, name: str, *, authenticated: bool = True) -> Principal:
        """A principal as the first rule that names it says."""
        rule = next((rule for rule in self.rules if rule.names(name)), None)
        if rule is None:
            return Principal(name, authenticated=authenticated)
        return Principal(name, frozenset(rule.roles), rule.engines, authenticated, rule.quotas)


def read_policy(data: bytes) -> Policy:
    """A policy from YAML; raises ValueError naming the field."""
    try:
        return Policy.model_validate(read_yaml(data))
    except ValidationError as error:
        wrong = error.errors(include_url=False)[0]
        raise ValueError(f"{'.'.join(map(str, wrong['loc']))}: {wrong['msg']}") from None


def policy_of(setting: str, path: Path | None, otherwise: Policy) -> Callable[[], Policy]:
    """The policy of now: of a file, read again when it changes, or `otherwise` where there is none."""
    if path is None:
        return lambda: otherwise
    watched = Watched(setting, (path,), read_policy)
    return lambda: watched.value


def _matches(pattern: str, name: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), name, re.DOTALL) is not None
