"""Jobs may be submitted: what the queue goes by is on their rows, what they say in a log of each."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Adds columns and a table; no job so far is in the queue, so no worker takes what was run by hand."""
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
    op.create_table(
        "log_lines",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("job_id", sa.Integer(), sa.ForeignKey("jobs.id"), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("ix_log_lines_job_id", "log_lines", ["job_id"])
