# SPDX-License-Identifier: GPL-3.0-or-later
"""What retention needs, and indexes for many runs."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_PARTIAL = {
    "ix_runs_deadline": (["deadline"], "finished_at IS NULL"),
    "ix_runs_in_line": (["group_name", "id"], "started_at IS NULL AND finished_at IS NULL"),
    "ix_runs_logs": (["workflow", "id"], "logs_pruned_at IS NULL"),
    "ix_runs_events": (["workflow", "id"], "events_pruned_at IS NULL"),
}


def upgrade() -> None:

    # Each column by itself: a batch would copy the whole table in SQLite, with all that refers to it.
    op.add_column("runs", sa.Column("logs_pruned_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("runs", sa.Column("logs_kept", sa.Float(), nullable=True))
    op.add_column("runs", sa.Column("events_pruned_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("runs", sa.Column("events_kept", sa.Float(), nullable=True))
    op.create_index("ix_runs_definition_digest", "runs", ["definition_digest"])
    op.create_index("ix_runs_result", "runs", ["workflow", "state", "id"])
    for name, (columns, where) in _PARTIAL.items():
        op.create_index(name, "runs", columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))
    op.create_index("ix_attempts_unsent", "attempts", ["state", "sent_at", "id"])
    op.drop_index("ix_attempts_state", "attempts")
    op.create_index("ix_parked_messages_resolved", "parked_messages", ["resolved_at"])
    op.create_index("ix_schedule_fires_due", "schedule_fires", ["due_at", "schedule"])
    op.create_table(
        "spent_keys",
        sa.Column("trigger_key", sa.String(length=255), nullable=False),
        sa.Column("run_id", sa.String(length=16), nullable=False),
        sa.Column("pruned_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("trigger_key"),
    )
    op.create_index("ix_spent_keys_pruned_at", "spent_keys", ["pruned_at"])


def downgrade() -> None:

    op.drop_table("spent_keys")
    op.drop_index("ix_schedule_fires_due", "schedule_fires")
    op.drop_index("ix_parked_messages_resolved", "parked_messages")
    op.create_index("ix_attempts_state", "attempts", ["state", "due_at"])
    op.drop_index("ix_attempts_unsent", "attempts")
    for name in (*_PARTIAL, "ix_runs_result", "ix_runs_definition_digest"):
        op.drop_index(name, "runs")
    for name in ("events_kept", "events_pruned_at", "logs_kept", "logs_pruned_at"):
        op.drop_column("runs", name)
