"""What the processes of submitted jobs have said: the last lines of each job."""

from collections.abc import Sequence
from contextlib import suppress

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from nas.store import tables as t
from nas.store.connection.database import Database, fetch
from nas.store.connection.patience import again
from nas.store.records import Job, LogLine
from nas.store.values import now

MOST_LINES = 2_000  # that are kept of a job
LONGEST_LINE = 500  # characters: together at most a million


class Logs(Database):
    """The logs of a store's jobs."""

    @again
    def add_log(self, job: Job, texts: Sequence[str]) -> None:
        """Adds lines of its attempt; the oldest beyond `MOST_LINES` go. Of a deleted job nothing is kept."""
        row = {"job_id": job.id, "attempt": job.attempt, "created_at": now()}
        new = [{**row, "text": text[:LONGEST_LINE]} for text in texts[-MOST_LINES:]]
        c = t.log_lines.c
        of_job = c.job_id == job.id
        last = sa.select(c.id).where(of_job).order_by(c.id.desc()).offset(MOST_LINES).limit(1)
        if not new:
            return
        with suppress(IntegrityError), self.write() as connection:
            connection.execute(sa.insert(t.log_lines), new)
            connection.execute(sa.delete(t.log_lines).where(of_job & (c.id <= last.scalar_subquery())))

    @again
    def log(self, job: Job, *, after: int = 0) -> list[LogLine]:
        """The lines of all attempts, the oldest first, or those after the line of this id."""
        c = t.log_lines.c
        query = sa.select(t.log_lines).where((c.job_id == job.id) & (c.id > after)).order_by(c.id)
        with self.read() as connection:
            return fetch(connection, LogLine, query)
