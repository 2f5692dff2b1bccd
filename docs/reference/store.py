"""The page of the store: its tables and columns, from the SQLAlchemy tables."""

import sqlalchemy as sa

from docs.reference.tables import code, table
from nas.store.tables import metadata

BEGINNING = """# The store

One SQL database, a SQLite file or PostgreSQL, is the only truth; files beside it (checkpoints, weights) are
named with their SHA-256 in `artifacts`. `nas db upgrade` brings an older one to this schema, `nas db check`
looks for damage. Read it as you like; write to it through `nas` only.
"""
TABLES = {
    "store": "One row: which store this is, wherever its database lies.",
    "jobs": "Questions: their config, state, place in the queue, lease, and what people say about them.",
    "workers": "What runs the queue, for display only.",
    "log_lines": "What the processes of submitted jobs say, the last lines of each.",
    "supernets": "Trained weights, by what they depend on.",
    "job_supernets": "Which jobs use which supernets.",
    "stages": "What of a job is done, and what came out.",
    "subnets": "Architectures that a job has to do with, and their exact costs.",
    "evaluations": "Qualities of subnets with given weights on given examples.",
    "hits": "Scores of subnets example by example.",
    "devices": "What is measured on, by fingerprint.",
    "agents": "Processes on other hosts that measure.",
    "requests": "What agents are asked, and what they answered.",
    "measurements": "Timings of networks on devices.",
    "device_qualities": "Qualities as the backend of a device computes them.",
    "predictors": "Fitted latency predictors with their scores.",
    "artifacts": "Files beside the database, with their hashes.",
    "events": "What happened in a stage: training curves, hypervolume, log.",
}


def page() -> str:
    """The page in Markdown."""
    return "\n".join([BEGINNING, *(entry(made) for made in metadata.tables.values())])


def entry(made: sa.Table) -> str:
    """One table: what it is for and its columns."""
    rows = [(code(column.name), _kind(column), _marks(column)) for column in made.columns]
    body = table(("column", "type", ""), rows)
    unique = [
        ", ".join(code(column.name) for column in one.columns)
        for one in made.constraints
        if isinstance(one, sa.UniqueConstraint) and len(one.columns) > 1
    ]
    also = f"\n\nOnce each: {'; '.join(unique)}." if unique else ""
    return f"## {made.name}\n\n{TABLES[made.name]}\n\n{body}{also}\n"


def _kind(column: sa.Column[object]) -> str:
    implementation = getattr(column.type, "impl", column.type)
    return type(implementation).__name__.lower()


def _marks(column: sa.Column[object]) -> str:
    keys = [f"of {code(key.column.table.name)}" for key in column.foreign_keys]
    marks = ["primary key"] if column.primary_key else []
    marks += ["unique"] if column.unique else []
    return ", ".join([*marks, *keys, *(["may be null"] if column.nullable else [])])
