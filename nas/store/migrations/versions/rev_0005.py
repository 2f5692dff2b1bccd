"""What jobs have paid for belongs to what it is about, so that other jobs find it."""

import json
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Adds tables and columns; every trained supernet of a job gets a row, without a key.

    What older code trained is found by name only, since nothing tells that this code would train the same.
    """
    _supernets()
    op.add_column("jobs", sa.Column("goal", sa.String(16), nullable=False, server_default=sa.text("'front'")))
    op.create_index("ix_subnets_key", "subnets", ["key"])
    op.add_column("evaluations", _reused())
    op.add_column("measurements", sa.Column("network", sa.String(64)))
    op.add_column("measurements", _reused())
    op.create_index("ix_measurements_network", "measurements", ["network", "device_id"])
    with op.batch_alter_table("hits") as hits:
        hits.add_column(_of_supernet("hits"))
        hits.add_column(sa.Column("data", sa.String(64)))
        hits.add_column(sa.Column("precision", sa.String(32)))
    with op.batch_alter_table("artifacts") as artifacts:
        artifacts.alter_column("job_id", existing_type=sa.Integer(), nullable=True)
        artifacts.add_column(_of_supernet("artifacts"))
    op.create_index("ix_artifacts_supernet_id", "artifacts", ["supernet_id"])
    _hand_over()


def _reused() -> sa.Column[bool]:
    return sa.Column("reused", sa.Boolean(), nullable=False, server_default=sa.false())


def _of_supernet(table: str) -> sa.Column[int]:
    key = sa.ForeignKey("supernets.id", name=f"fk_{table}_supernet_id")
    return sa.Column("supernet_id", sa.Integer(), key)


def _supernets() -> None:
    op.create_table(
        "supernets",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("key", sa.String(64)),
        sa.Column("state", sa.String(16), nullable=False),
        *(sa.Column(name, sa.JSON(), nullable=False) for name in ("space", "data", "settings")),
        sa.Column("steps", sa.Integer(), nullable=False),
        *(sa.Column(name, sa.Double(), nullable=False) for name in ("seconds", "cpu_seconds")),
        sa.Column("curve", sa.JSON(), nullable=False),
        sa.Column("trainer", sa.Text()),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        sa.Column("owner", sa.Text()),
        sa.Column("lease_until", sa.Double()),
        sa.UniqueConstraint("name"),
        sa.UniqueConstraint("key"),
    )
    op.create_table(
        "job_supernets",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("job_id", sa.Integer(), sa.ForeignKey("jobs.id"), nullable=False),
        sa.Column("supernet_id", sa.Integer(), sa.ForeignKey("supernets.id"), nullable=False),
        _reused(),
        sa.UniqueConstraint("job_id", "supernet_id"),
    )
    op.create_index("ix_job_supernets_supernet_id", "job_supernets", ["supernet_id"])


# What older jobs have trained: a row each.


def _hand_over() -> None:
    connection = op.get_bind()
    weights = sa.text(
        "SELECT j.id, j.name, CAST(j.config AS TEXT) AS config, max(a.id) AS artifact_id FROM artifacts a"
        " JOIN jobs j ON j.id = a.job_id WHERE a.kind = 'supernet'"
        " GROUP BY j.id, j.name, CAST(j.config AS TEXT) ORDER BY j.id"
    )
    for job in connection.execute(weights).all():
        supernet_id = _insert(job.id, job.name, _object(job.config), job.artifact_id)
        connection.execute(
            sa.text("INSERT INTO job_supernets (job_id, supernet_id) VALUES (:job, :supernet)"),
            {"job": job.id, "supernet": supernet_id},
        )
        connection.execute(
            sa.text(
                "UPDATE artifacts SET supernet_id = :supernet, job_id = NULL"
                " WHERE kind = 'supernet' AND job_id = :job"
            ),
            {"job": job.id, "supernet": supernet_id},
        )


def _insert(job_id: int, name: str, config: dict[str, Any], artifact_id: int) -> int:
    space, train = _stage(job_id, "space"), _stage(job_id, "train")
    result = _object(space.result) if space is not None else {}
    table = sa.table(
        "supernets",
        *(sa.column(column, sa.JSON) for column in ("space", "data", "settings", "curve")),
        *(sa.column(column, sa.DateTime(timezone=True)) for column in ("created_at", "finished_at")),
        *map(sa.column, ("id", "name", "state", "steps", "seconds", "cpu_seconds", "trainer")),
    )
    artifact = sa.table(
        "artifacts", sa.column("id"), sa.column("step"), sa.column("created_at", sa.DateTime(timezone=True))
    )
    connection = op.get_bind()
    file = connection.execute(sa.select(artifact).where(artifact.c.id == artifact_id)).one()
    row = {"name": name, "state": "trained", "trainer": name, "steps": file.step or 0}
    row |= {"space": _inner(result, "space"), "data": _inner(result, "data")}
    sections = {section: _inner(config, section) for section in ("supernet", "train")}
    row |= {"settings": sections | {"seed": config.get("seed", 0)}}
    row |= {"seconds": _seconds(train), "cpu_seconds": 0.0, "curve": _curve(job_id)}
    row |= {"created_at": file.created_at, "finished_at": file.created_at}
    return int(connection.execute(sa.insert(table).values(row).returning(table.c.id)).scalar_one())


def _stage(job_id: int, name: str) -> Any:
    table = sa.table(
        "stages",
        *map(sa.column, ("job_id", "name")),
        sa.column("result", sa.Text),
        *(sa.column(column, sa.DateTime(timezone=True)) for column in ("started_at", "finished_at")),
    )
    wanted = (table.c.job_id == job_id) & (table.c.name == name)
    query = sa.select(
        sa.cast(table.c.result, sa.Text).label("result"), table.c.started_at, table.c.finished_at
    )
    return op.get_bind().execute(query.where(wanted)).first()


def _seconds(train: Any) -> float:
    """That the training took, where it was done in one go; what an interrupted one took is not known."""
    moments = () if train is None else (train.started_at, train.finished_at)
    if len(moments) == 2 and all(isinstance(moment, datetime) for moment in moments):
        return max(0.0, float((moments[1] - moments[0]).total_seconds()))
    return 0.0


def _curve(job_id: int) -> list[Any]:
    rows = sa.text(
        "SELECT CAST(data AS TEXT) FROM events"
        " WHERE job_id = :job AND kind = 'train' AND stage = 'train' ORDER BY step"
    )
    return [_object(data) for data in op.get_bind().execute(rows, {"job": job_id}).scalars()]


def _inner(value: dict[str, Any], key: str) -> dict[str, Any]:
    inner = value.get(key)
    return inner if isinstance(inner, dict) else {}


def _object(text: str | None) -> dict[str, Any]:
    """A JSON object; nothing of what cannot be read: this must not keep anybody from the new schema."""
    try:
        value = json.loads(text or "")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
