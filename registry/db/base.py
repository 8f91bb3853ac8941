"""Column types and the declarative base. Everything here is the same on SQLite and PostgreSQL."""

from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar

from sqlalchemy import JSON, BigInteger, CheckConstraint, DateTime, Dialect, Integer, MetaData, String, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, mapped_column
from sqlalchemy.types import TypeDecorator


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC time. SQLite has no such type, so there the zone is put back on reading."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse naive times: they would mean something else on every host."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise TypeError("a naive datetime reached the database")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give every time its zone, UTC."""
        del dialect
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


Id = BigInteger().with_variant(Integer, "sqlite")
"""SQLite autoincrements only INTEGER PRIMARY KEY."""

Json = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")

bigid = Annotated[int, mapped_column(Id, primary_key=True)]
count = Annotated[int, mapped_column(Id, default=0)]
short = Annotated[str, mapped_column(String(255))]
text = Annotated[str, mapped_column(Text)]
hex64 = Annotated[str, mapped_column(String(64))]
instant = Annotated[datetime, mapped_column(UtcDateTime())]
document = Annotated[dict[str, Any], mapped_column(Json)]
documents = Annotated[list[Any], mapped_column(Json)]


def digest_check(column: str) -> CheckConstraint:
    """64 lower-case characters; that they are hexadecimal is checked where digests enter (`domain.digest`)."""
    return CheckConstraint(f"length({column}) = 64 AND {column} = lower({column})", name=f"{column}_form")


def one_of(column: str, *values: str) -> CheckConstraint:
    """The column holds one of the named states."""
    quoted = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({quoted})", name=f"{column}_known")


class Base(DeclarativeBase):
    """Names every constraint, so that a migration can drop it on either database."""

    metadata: ClassVar[MetaData] = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
