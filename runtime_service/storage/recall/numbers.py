"""A table of numbers as one parameter of a statement, in both databases."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from sqlalchemy import ColumnElement, Connection, Integer, TableValuedAlias, bindparam, cast, func, select
from sqlalchemy.dialects.postgresql import ARRAY

TABLES: Mapping[str, TableValuedAlias] = {
    "sqlite": func.json_each(bindparam("numbers")).table_valued("value"),
    "postgresql": func.unnest(bindparam("numbers", type_=ARRAY(Integer))).table_valued("value").render_derived(),
}
"""By the name of a database's dialect, with the column `value`; the parameter is `numbers`."""


def numbered(column: ColumnElement[int], each: TableValuedAlias) -> ColumnElement[bool]:
    """Whether a column has one of the numbers of TABLES."""
    return column.in_(select(cast(each.c.value, Integer)))


def numbers_parameter(connection: Connection, numbers: Iterable[int]) -> dict[str, object]:
    """The parameter of TABLES."""
    listed = list(numbers)
    return {"numbers": json.dumps(listed) if connection.dialect.name == "sqlite" else listed}
