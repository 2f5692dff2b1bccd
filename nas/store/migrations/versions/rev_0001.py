"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Creates all tables; constraint names come from the metadata's naming convention."""
    _jobs()
    _devices()
    _evaluations()
    _measurements()
    _predictors()
    _files_and_events()


def _id() -> sa.Column[int]:
    return sa.Column("id", sa.Integer(), primary_key=True)


def _of(table: str) -> sa.Column[int]:
    return sa.Column(f"{table}_id", sa.Integer(), sa.ForeignKey(f"{table}s.id"), nullable=False)


def _moment(name: str = "created_at", *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _json(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.JSON(), nullable=nullable)


def _text(name: str, length: int | None = None, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.String(length) if length else sa.Text(), nullable=nullable)


def _jobs() -> None:
    op.create_table(
        "jobs",
        _id(),
        _text("name"),
        _text("state", 16),
        _json("config"),
        _json("provenance"),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        _moment(),
        _moment("started_at", nullable=True),
        _moment("finished_at", nullable=True),
        _text("error", nullable=True),
        sa.Column("stop_requested", sa.Boolean(), nullable=False),
        _text("owner", nullable=True),
        sa.Column("lease_until", sa.Double()),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.UniqueConstraint("name"),
    )
    op.create_table(
        "stages",
        _id(),
        _of("job"),
        _text("name"),
        _text("key"),
        _text("state", 16),
        _moment("started_at"),
        _moment("finished_at", nullable=True),
        _json("result", nullable=True),
        sa.UniqueConstraint("job_id", "name"),
    )


def _devices() -> None:
    op.create_table(
        "devices",
        _id(),
        _text("name"),
        _text("digest", 64),
        _json("fingerprint"),
        _moment(),
        sa.UniqueConstraint("digest"),
    )


def _evaluations() -> None:
    op.create_table(
        "subnets",
        _id(),
        _of("job"),
        _text("key"),
        _json("architecture"),
        sa.Column("params", sa.BigInteger(), nullable=False),
        sa.Column("macs", sa.BigInteger(), nullable=False),
        sa.UniqueConstraint("job_id", "key"),
    )
    op.create_table(
        "evaluations",
        _id(),
        _of("subnet"),
        _of("job"),
        _text("split", 32),
        _text("weights", 32),
        _text("metric", 64),
        _text("state", 16),
        sa.Column("value", sa.Double()),
        sa.Column("stderr", sa.Double()),
        sa.Column("count", sa.Integer()),
        _text("reason", nullable=True),
        sa.Column("batch", sa.Integer()),
        sa.Column("position", sa.Integer()),
        _json("objectives"),
        _moment(),
        sa.UniqueConstraint("subnet_id", "split", "weights", "metric"),
    )
    op.create_index("ix_evaluations_job_id", "evaluations", ["job_id"])


def _measurements() -> None:
    op.create_table(
        "measurements",
        _id(),
        _of("job"),
        _of("subnet"),
        _of("device"),
        _text("purpose", 32),
        sa.Column("latency_ms", sa.Double(), nullable=False),
        sa.Column("spread_ms", sa.Double()),
        sa.Column("reference_ms", sa.Double()),
        sa.Column("rounds", sa.Integer(), nullable=False),
        _json("raw"),
        _moment(),
        sa.UniqueConstraint("subnet_id", "device_id", "purpose"),
    )
    op.create_index("ix_measurements_job_id", "measurements", ["job_id"])


def _predictors() -> None:
    op.create_table(
        "predictors",
        _id(),
        _of("job"),
        _of("device"),
        _text("metric", 64),
        _text("kind", 64),
        _json("state"),
        _json("score"),
        _moment(),
        sa.UniqueConstraint("job_id", "device_id", "metric"),
    )


def _files_and_events() -> None:
    op.create_table(
        "artifacts",
        _id(),
        _of("job"),
        _text("kind", 64),
        _text("path"),
        _text("sha256", 64),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("step", sa.Integer()),
        _moment(),
        sa.UniqueConstraint("job_id", "path"),
    )
    op.create_table(
        "events",
        _id(),
        _of("job"),
        _text("stage"),
        _text("kind", 64),
        sa.Column("step", sa.Integer()),
        _json("data"),
        _moment(),
        sa.UniqueConstraint("job_id", "kind", "stage", "step"),
    )
