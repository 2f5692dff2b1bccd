"""Jobs may be submitted: what the queue goes by is on their rows."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Adds columns; no job so far is in the queue, so that no worker takes one that somebody ran by hand."""
    op.add_column("jobs", sa.Column("submitted_at", sa.DateTime(timezone=True)))
    op.add_column("jobs", sa.Column("priority", sa.Integer(), nullable=False, server_default=sa.text("0")))
    op.add_column("jobs", sa.Column("needs", sa.Text()))
    op.add_column("jobs", sa.Column("after_id", sa.Integer()))
    op.add_column(
        "jobs", sa.Column("last_attempt", sa.Integer(), nullable=False, server_default=sa.text("3"))
    )
    op.add_column("jobs", sa.Column("paused", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("jobs", sa.Column("sweep", sa.Text()))
    op.add_column("jobs", sa.Column("key", sa.Text()))
    op.create_index("ix_jobs_key", "jobs", ["key"], unique=True)
