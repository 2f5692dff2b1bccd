"""The workers that are there now, for people: no job is taken, or given up, by what stands here."""

from collections.abc import Collection, Sequence

import sqlalchemy as sa

from nas.store import tables as t
from nas.store.connection.database import Database, fetch
from nas.store.connection.engine import database_seconds, insert_missing
from nas.store.connection.patience import again
from nas.store.leases import LEASE_SECONDS, is_dead
from nas.store.records import RunningWorker
from nas.store.values import now

KEPT_SECONDS = 86_400.0  # that a row stays after its worker was seen last


class Workers(Database):
    """The workers of a store."""

    @again
    def note_worker(
        self, owner: str, *, offers: Collection[str] = (), gpus: Sequence[int] = (), slots: int = 1
    ) -> None:
        """That a worker is there, for the length of a lease."""
        c, lease_until = t.workers.c, database_seconds() + LEASE_SECONDS
        with self.write() as connection:
            seen = sa.update(t.workers).where(c.owner == owner).values(lease_until=lease_until)
            if connection.execute(seen).rowcount:
                return
            late = c.lease_until < database_seconds() - KEPT_SECONDS
            connection.execute(sa.delete(t.workers).where(late))
            row = {"owner": owner, "offers": sorted(offers), "gpus": list(gpus), "slots": slots}
            insert_missing(connection, t.workers, [{**row, "started_at": now(), "lease_until": 0.0}])
            connection.execute(seen)

    @again
    def forget_worker(self, owner: str) -> None:
        """That a worker has left."""
        with self.write() as connection:
            connection.execute(sa.delete(t.workers).where(t.workers.c.owner == owner))

    @again
    def workers(self) -> list[RunningWorker]:
        """Those that are there, the oldest first."""
        c = t.workers.c
        query = sa.select(t.workers).where(c.lease_until > database_seconds()).order_by(c.id)
        with self.read() as connection:
            rows = fetch(connection, RunningWorker, query)
        return [row for row in rows if not is_dead(row.owner)]
