"""All rows of a store, from one database into another of any kind."""

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from nas.errors import StoreError
from nas.store import tables as t

ROWS_AT_ONCE = 500
ROOT = "root"  # kind of the file by which a process knows that it sees the store's folder
OF_DEVICE = "device_models"  # kind of the file with what was measured on a device of models of no job


def copy_rows(source: Connection, target: Connection, identity: str | None) -> None:
    """Copies every row with its id. Both are in a transaction: the source's nothing was asked in yet.

    identity: which the target's store has from now on; None: the source's.  The token of the source's folder
    is left out: it is of that folder.
    Raises StoreError for a row that cannot be read, and where not all have arrived.
    """
    if source.dialect.name == "postgresql":
        source.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")  # one moment of the store
    target.execute(sa.delete(t.store))  # which the migrations have made
    for table in t.metadata.sorted_tables:
        kept = table.c.kind != ROOT if table is t.artifacts else sa.true()
        query = sa.select(table).where(kept).order_by(table.c.id)
        copied = 0
        for part in source.execute(query).mappings().partitions(ROWS_AT_ONCE):
            target.execute(sa.insert(table), [dict(row) for row in part])
            copied += len(part)
        if target.scalar(sa.select(sa.func.count()).select_from(table)) != copied:
            raise StoreError(f"Not all rows of {table.name} have arrived.", "Try again.")
        if target.dialect.name == "postgresql" and copied:
            number = sa.select(sa.func.max(table.c.id)).scalar_subquery()
            target.execute(
                sa.select(sa.func.setval(sa.func.pg_get_serial_sequence(table.name, "id"), number))
            )
    if identity is not None:
        target.execute(sa.update(t.store).values(uuid=identity))
