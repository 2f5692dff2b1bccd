"""The store's identity, which its artifact folder carries, too."""

import uuid
from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Adds the table with its one row."""
    table = op.create_table(
        "store",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("uuid", sa.String(32), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.get_bind().execute(sa.insert(table).values(id=1, uuid=uuid.uuid4().hex, created_at=datetime.now(UTC)))
