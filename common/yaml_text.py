"""YAML as people write it: the library's safe loader, which takes what YAML forbids, made to refuse that."""

from __future__ import annotations

from typing import Any

import yaml


def read_yaml(text: str | bytes, *, aliases: bool = True) -> Any:  # noqa: ANN401 - whatever YAML can say
    """What a text says; raises ValueError, with the line, for what is no YAML.

    Keys that are given twice, of which the library would take the last, are refused by name. Without `aliases` these
    are too: they can expand without bound.
    """
    try:
        return yaml.load(text, _Loader if aliases else _LoaderWithoutAliases)  # noqa: S506 - safe loaders
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError) as error:  # all by the library
        raise ValueError(f"not YAML: {error}") from None


class _Loader(yaml.SafeLoader):
    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:  # noqa: ANN401 - as the base has it
        text = super().construct_scalar(node)
        if any("\ud800" <= character <= "\udfff" for character in text):
            message = "half of a surrogate pair is no character"
            raise yaml.constructor.ConstructorError(None, None, message, node.start_mark)
        return text

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        first: dict[str, int] = {}
        for key, _ in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in first:
                message = f"{name!r} is given twice, in line {first[name]} and line {line}; keep one"
                raise yaml.constructor.ConstructorError(None, None, message, key.start_mark)
            first[name] = line
        return super().construct_mapping(node, deep)


class _LoaderWithoutAliases(_Loader):
    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:  # noqa: ANN401 - as the base has it
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "there may be no aliases here", mark)
        return super().compose_node(parent, index)
