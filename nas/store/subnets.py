"""Rows of subnets, which evaluations and measurements point to."""

from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from nas.store import tables as t
from nas.store.connection.engine import insert_missing
from nas.store.records import NewSubnet, Subnet

KEYS_A_QUERY = 1000


def subnet_ids(connection: Connection, job_id: int, subnets: Iterable[NewSubnet]) -> dict[str, int]:
    """The id of every subnet by its key; those the job has already keep theirs."""
    new = {subnet.key: subnet for subnet in subnets}
    rows: list[dict[str, Any]] = [
        {
            "job_id": job_id,
            "key": key,
            "architecture": s.architecture,
            "params": int(s.params),
            "macs": int(s.macs),
            "own_key": s.own_key,
        }
        for key, s in new.items()
    ]
    insert_missing(connection, t.subnets, rows)
    keys, ids = list(new), dict[str, int]()
    c = t.subnets.c
    for start in range(0, len(keys), KEYS_A_QUERY):
        some = c.key.in_(keys[start : start + KEYS_A_QUERY])
        for row in connection.execute(sa.select(c.key, c.id).where((c.job_id == job_id) & some)):
            ids[row.key] = row.id
    return ids


def with_subnet(table: sa.Table) -> sa.Select[Any]:
    """A query for all of a table beside the subnets that its rows point to."""
    subnet: Sequence[sa.ColumnElement[Any]] = [
        column.label(f"subnet__{column.name}") for column in t.subnets.c
    ]
    return sa.select(table, *subnet).join(t.subnets, t.subnets.c.id == table.c.subnet_id)


def nested(row: RowMapping) -> dict[str, Any]:
    """A row of such a query as the fields of a record that holds a `Subnet`."""
    fields = {name: value for name, value in row.items() if not name.startswith("subnet_")}
    inner = {
        name.removeprefix("subnet__"): value for name, value in row.items() if name.startswith("subnet__")
    }
    return {**fields, "subnet": Subnet(**inner)}
