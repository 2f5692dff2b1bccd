"""Devices by name, measurements that failed and what else they tell, agents that measure elsewhere."""

import json
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

ROWS_AT_A_TIME = 500


def upgrade() -> None:
    """Adds columns and tables; raw timings become rows of the columns that measurements have from now on."""
    with op.batch_alter_table("devices") as devices:
        devices.add_column(sa.Column("options", sa.JSON()))
        devices.add_column(sa.Column("reference_ms", sa.Double()))
    with op.batch_alter_table("measurements") as measurements:
        measurements.alter_column("latency_ms", existing_type=sa.Double(), nullable=True)
        measurements.add_column(
            sa.Column("state", sa.String(16), nullable=False, server_default=sa.text("'ok'"))
        )
        measurements.add_column(sa.Column("reason", sa.Text()))
        for name in ("stderr_ms", "contention", "energy_mj"):
            measurements.add_column(sa.Column(name, sa.Double()))
        measurements.add_column(sa.Column("memory_bytes", sa.BigInteger()))
    with op.batch_alter_table("measurements") as measurements:
        measurements.alter_column("state", existing_type=sa.String(16), server_default=None)
    _convert_raw()
    _agents()
    _requests()


def _convert_raw() -> None:
    """[seconds, before, after] of round i becomes the same with unknown position and CPU times.

    Before and after was one pass of the reference network.
    """
    table = sa.table("measurements", sa.column("id", sa.Integer), sa.column("raw", sa.Text))
    connection, last = op.get_bind(), 0
    change = (
        sa.update(table)
        .where(table.c.id == sa.bindparam("row"))
        .values(raw=sa.cast(sa.bindparam("new"), sa.JSON) if _is_postgresql() else sa.bindparam("new"))
    )
    while True:
        some = sa.select(table.c.id, sa.cast(table.c.raw, sa.Text).label("raw")).where(table.c.id > last)
        rows = connection.execute(some.order_by(table.c.id).limit(ROWS_AT_A_TIME)).all()
        if not rows:
            return
        last = rows[-1].id
        changed = [{"row": row.id, "new": json.dumps(_converted(json.loads(row.raw)))} for row in rows]
        connection.execute(change, changed)


def _is_postgresql() -> bool:
    return op.get_bind().dialect.name == "postgresql"


def _converted(raw: Any) -> Any:
    """Anything else than rows of three numbers was not written by a measurement, and stays."""
    if not isinstance(raw, list) or not all(isinstance(row, list) and len(row) == 3 for row in raw):
        return raw
    return [
        [turn, None, wall, None, before, None, after, None, 1]
        for turn, (wall, before, after) in enumerate(raw)
    ]


def _agents() -> None:
    op.create_table(
        "agents",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("device_id", sa.Integer(), sa.ForeignKey("devices.id"), nullable=False),
        sa.Column("owner", sa.Text()),
        sa.Column("lease_until", sa.Double()),
        sa.UniqueConstraint("name"),
    )


def _requests() -> None:
    op.create_table(
        "requests",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("job_id", sa.Integer(), sa.ForeignKey("jobs.id"), nullable=False),
        sa.Column("agent", sa.Text(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.Column("result", sa.JSON()),
        sa.Column("error", sa.Text()),
        sa.Column("owner", sa.Text()),
        sa.Column("lease_until", sa.Double()),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
    )
    op.create_index("ix_requests_job_id", "requests", ["job_id"])
    op.create_index("ix_requests_agent", "requests", ["agent"])
