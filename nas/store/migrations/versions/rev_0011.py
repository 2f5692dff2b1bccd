"""Evaluations of one split are looked up among millions of another."""

from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Replaces the index of jobs by one that begins with it."""
    op.create_index("ix_evaluations_job_id_split_weights", "evaluations", ["job_id", "split", "weights"])
    op.drop_index("ix_evaluations_job_id", table_name="evaluations")
