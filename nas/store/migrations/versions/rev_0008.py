"""Jobs may have a note and tags."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Adds two columns, empty for all jobs so far."""
    op.add_column("jobs", sa.Column("note", sa.Text()))
    op.add_column("jobs", sa.Column("tags", sa.JSON()))
