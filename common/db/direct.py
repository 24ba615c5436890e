"""Short statements that only read, each by itself and straight through the driver.

What SQLAlchemy does around such a statement, and a transaction around two of them, take longer than the database.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Dialect, Select
from sqlalchemy.exc import DBAPIError


class Direct:
    """A statement as each database's driver wants it. Its values have to be those that the driver knows."""

    def __init__(self, statements: Mapping[str, Select[Any]]) -> None:
        """`statements` by the name of a database's dialect."""
        self._statements = statements
        self._compiled: dict[str, tuple[str, Callable[[Mapping[str, object]], Any]]] = {}

    def rows(self, connection: Connection, parameters: Mapping[str, object]) -> Sequence[Any]:
        """All rows; raises as SQLAlchemy does, and gives up the connection then."""
        dialect = connection.dialect
        text, ordered = self._compiled.get(dialect.name) or self._compile(dialect)
        driver = dialect.loaded_dbapi
        try:
            cursor = connection.connection.cursor()
            cursor.execute(text, ordered(parameters))
            rows = cursor.fetchall()
            cursor.close()
        except driver.Error as error:
            connection.invalidate(error)
            raise DBAPIError.instance(text, None, error, driver.Error, dialect=dialect) from error
        return rows

    def _compile(self, dialect: Dialect) -> tuple[str, Callable[[Mapping[str, object]], Any]]:
        compiled = self._statements[dialect.name].compile(dialect=dialect)
        fixed, places = compiled.params, getattr(compiled, "positiontup", None)

        def ordered(parameters: Mapping[str, object]) -> Any:  # noqa: ANN401 - the driver's
            values = {**fixed, **parameters}
            return values if places is None else tuple(map(values.__getitem__, places))

        self._compiled[dialect.name] = found = str(compiled), ordered
        return found
