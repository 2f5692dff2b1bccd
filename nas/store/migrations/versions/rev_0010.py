"""Qualities of subnets as the backend of a device computes them."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Adds a table in which nothing is yet."""
    op.create_table(
        "device_qualities",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("job_id", sa.Integer(), sa.ForeignKey("jobs.id"), nullable=False),
        sa.Column("subnet_id", sa.Integer(), sa.ForeignKey("subnets.id"), nullable=False),
        sa.Column("device_id", sa.Integer(), sa.ForeignKey("devices.id"), nullable=False),
        sa.Column("split", sa.String(32), nullable=False),
        sa.Column("weights", sa.String(32), nullable=False),
        sa.Column("metric", sa.String(64), nullable=False),
        sa.Column("basis", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("value", sa.Double()),
        sa.Column("stderr", sa.Double()),
        sa.Column("count", sa.Integer()),
        sa.Column("difference", sa.Double()),
        sa.Column("difference_stderr", sa.Double()),
        sa.Column("reason", sa.Text()),
        sa.Column("objectives", sa.JSON(), nullable=False),
        sa.Column("scores", sa.LargeBinary()),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("reused", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.UniqueConstraint("subnet_id", "device_id", "split", "weights"),
    )
    op.create_index("ix_device_qualities_job_id", "device_qualities", ["job_id"])
    op.create_index("ix_device_qualities_basis", "device_qualities", ["basis", "device_id"])
