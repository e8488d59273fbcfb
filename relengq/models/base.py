# SPDX-License-Identifier: GPL-3.0-or-later
"""What all tables have in common: how times, states and JSON are stored."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import JSON, BigInteger, DateTime, Dialect, Enum, Integer, LargeBinary, Text, TypeDecorator
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase

from relengq.documents import Json
from relengq.states import AttemptState, RunState, StepState


class UtcDateTime(TypeDecorator[datetime]):
    """An aware time, stored as UTC. SQLite keeps no zone, so it is taken off and put on again."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse naive times: nobody could tell what they mean."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a naive time cannot be stored")
        moment = value.astimezone(UTC)
        return moment.replace(tzinfo=None) if dialect.name == "sqlite" else moment

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give every time its zone back."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _states(kind: type[RunState] | type[StepState] | type[AttemptState]) -> Enum:
    """States as their values in a plain string column, so that a new one needs no migration."""
    return Enum(
        kind,
        native_enum=False,
        create_constraint=False,
        length=16,
        values_callable=lambda k: [m.value for m in k],
    )


JSON_OR_JSONB = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
BIG_KEY = BigInteger().with_variant(Integer, "sqlite")


class Base(DeclarativeBase):
    """Base of all tables."""

    type_annotation_map = {  # noqa: RUF012 -- SQLAlchemy's own way to declare it
        datetime: UtcDateTime(),
        RunState: _states(RunState),
        StepState: _states(StepState),
        AttemptState: _states(AttemptState),
        dict[str, Json]: JSON_OR_JSONB,
        list[str]: JSON_OR_JSONB,
        bytes: LargeBinary,
        str: Text,
    }
