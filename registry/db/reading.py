"""Reads that run all day: compiled once for each kind of database, and handed to the driver as they are.

The driver takes half the time that a statement takes on its way through SQLAlchemy, which finds out each time what
was known before. For the few statements where that counts; everything else goes through a session.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from sqlalchemy import Connection, Dialect, Select
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DBAPIError

Row = TypeVar("Row", bound=NamedTuple)

_Converter = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class _Compiled:
    """What the driver gets, and for each column what makes its answer ours, if anything needs to."""

    sql: str
    constants: Mapping[str, Any]
    converters: tuple[tuple[int, _Converter], ...]


class Reading(Generic[Row]):
    """A SELECT of columns with named parameters. Each row becomes a `shape`, in the order of the columns."""

    def __init__(self, statement: Select[*tuple[Any, ...]], shape: type[Row]) -> None:
        """Nothing is compiled before it runs for the first time."""
        self.statement, self._shape = statement, shape
        self._compiled: dict[str, _Compiled] = {}

    def rows(self, connection: Connection, **values: object) -> list[Row]:
        """All rows. Raises DBAPIError and lets go of a lost connection, as `Connection.execute` does."""
        compiled = self._compiled.get(connection.dialect.name)
        if compiled is None:
            compiled = self._compiled[connection.dialect.name] = _compile(self.statement, connection.dialect)
        driver = connection.connection
        cursor = driver.cursor()
        try:
            cursor.execute(compiled.sql, {**compiled.constants, **values})
            found: Sequence[Sequence[Any]] = cursor.fetchall()
        except connection.dialect.loaded_dbapi.Error as error:
            is_lost = connection.dialect.is_disconnect(error, driver.dbapi_connection, cursor)
            if is_lost:
                connection.invalidate(error)
            raise DBAPIError(compiled.sql, None, error, connection_invalidated=is_lost) from error
        finally:
            cursor.close()
        return [self._shape._make(_converted(row, compiled.converters)) for row in found]


def _compile(statement: Select[*tuple[Any, ...]], dialect: Dialect) -> _Compiled:
    # SQLite's driver takes names as well as marks, so that both drivers get their parameters by name.
    named = sqlite.dialect(paramstyle="named") if dialect.name == "sqlite" else dialect
    compiled = statement.compile(dialect=named)
    constants = {name: value for name, value in compiled.params.items() if value is not None}
    processors = [
        column.type.dialect_impl(dialect).result_processor(dialect, None) for column in statement.selected_columns
    ]
    converters = tuple((at, found) for at, found in enumerate(processors) if found is not None)
    return _Compiled(str(compiled), constants, converters)


def _converted(row: Sequence[Any], converters: Sequence[tuple[int, _Converter]]) -> Sequence[Any]:
    if not converters:
        return row
    values = list(row)
    for at, convert in converters:
        values[at] = convert(values[at])
    return values
