# SPDX-License-Identifier: GPL-3.0-or-later
"""Alembic's door: runs the migrations on the connection that relengq.migrations hands over."""

from typing import Literal

import sqlalchemy as sa
from alembic import context
from alembic.autogenerate.api import AutogenContext

from relengq.models import Base, UtcDateTime


def render(kind: str, item: object, autogen: AutogenContext) -> str | Literal[False]:
    """Write plain column types into migrations, so that an old one never depends on today's code."""
    if kind == "type":
        if isinstance(item, UtcDateTime):
            return "sa.DateTime(timezone=True)"
        if isinstance(item, sa.Enum):
            return f"sa.String(length={item.length})"
        if isinstance(item, sa.JSON):
            autogen.imports.add("from sqlalchemy.dialects.postgresql import JSONB")
            return 'sa.JSON().with_variant(JSONB(), "postgresql")'
    return False


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,
    compare_type=True,
    render_item=render,
)
context.run_migrations()
