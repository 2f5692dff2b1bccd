"""A job may have several supernets: what it calls each, and a subnet's key in the space of its own one."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Adds two columns, empty for all jobs so far, which have one supernet each."""
    op.add_column("job_supernets", sa.Column("name", sa.Text()))
    op.add_column("subnets", sa.Column("own_key", sa.Text()))
    op.create_index("ix_subnets_own_key", "subnets", ["own_key"])
