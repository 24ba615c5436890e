from __future__ import annotations

import pytest

from typings.tensorrt_stub import parse, written

TEXT = '''
class Severity:
    WARNING: typing.ClassVar[Severity]
    ERROR: typing.ClassVar[Severity]
    def __int__(self) -> int:
        ...
    def __eq__(self, other: typing.Any) -> bool:
        ...
class Base:
    class Kind:
        def __index__(self: Base.Kind) -> int:
            """An index."""
    def log(self, severity: Severity, msg: str) -> None:
        """Write."""
class Derived(Base):
    class Kind:
        def __index__(self) -> int:
            ...
    def log(self, severity: Severity, msg: str) -> None:
        ...
    def set(self, level: Severity = <Severity.WARNING: 2>, count: typing.SupportsInt = 0, path: str = None) -> None:
        ...
    def shape(self, shape: Dims, values: list) -> ns1::v_1_0::Severity:
        ...
    def first(self) -> nvonnxparser::IParserError:
        """
        :returns: The error, or :class:`None` if there is none.
        """
    def create_execution_context(self) -> detail::accessor<detail::str_attr>:
        ...
    def scale(self, power: int = None, axis: int) -> None:
        ...
class Dims:
    def volume(self) -> int:
        ...
class ParserError:
    def desc(self) -> str:
        ...
class Unreached:
    def log(self) -> None:
        ...
bool: Dims
'''


def stub(*names: str) -> str:
    return written(parse(TEXT), frozenset(names))


def test_only_what_is_named_and_what_its_annotations_name_is_kept() -> None:
    assert stub("Base", "log", "WARNING") == (
        "class Severity:\n    WARNING: typing.ClassVar[Severity]\n\n    def __int__(self) -> int:\n        ...\n\n"
        "class Base:\n\n    class Kind:\n\n        def __index__(self) -> int:\n            ...\n\n"
        "    def log(self, severity: Severity, msg: str) -> None:\n        ..."
    )


def test_what_a_class_repeats_of_its_base_is_left_to_the_base() -> None:
    assert stub("Derived", "log").endswith("class Derived(Base):\n    ...")


def test_a_module_constant_never_hides_a_builtin() -> None:
    assert stub("bool", "Dims") == "class Dims:\n    ..."


def test_parameters_say_what_an_override_receives_and_what_a_caller_may_leave_out() -> None:
    assert "def set(self, level: Severity=..., count: int=0, path: str | None=None) -> None" in stub("Derived", "set")


def test_cpp_names_are_the_python_classes_and_bare_containers_hold_anything() -> None:
    text = "def shape(self, shape: Dims | collections.abc.Sequence[int], values: list[typing.Any]) -> Severity"
    assert text in stub("Derived", "shape")


@pytest.mark.parametrize(
    ("method", "returned"),
    [("first", "ParserError | None"), ("create_execution_context", "typing.Any | None")],
)
def test_what_may_be_none_says_so(method: str, returned: str) -> None:
    assert f"def {method}(self) -> {returned}" in stub("Derived", method)


def test_a_definition_that_is_not_python_is_left_out() -> None:
    assert "axis" not in stub("Derived", "scale")


def test_other_text_that_is_not_python_is_an_error() -> None:
    with pytest.raises(ValueError, match="1 \\+"):
        parse("x: int\n1 +\n")
