"""What changes in a job whose data have moved or changed: in one transaction, or not at all."""

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from nas.store import _tables as t
from nas.store._database import Database
from nas.store._lease import Lease
from nas.store._patience import again
from nas.store._values import now

KIND = "data"  # of the events that tell of it
STAGES = {"search": ("search", "finalists"), "report": ("finalists",)}  # by the split that they look at


class DataChanges(Database):
    """Jobs with other data than those with which they began."""

    @again
    def change_data(
        self,
        lease: Lease,
        *,
        config: Mapping[str, Any],
        described: Mapping[str, Any] | None,
        message: str,
        forget: Sequence[str] = (),
    ) -> None:
        """Gives the job a config and, unless None, a description of its data; an event of kind `data` tells.

        forget: splits whose evaluations with inherited weights, and the stages made of them, are to be done
        again.
        """
        job_id, of_job = lease.job.id, t.stages.c.job_id == lease.job.id
        with lease.write() as connection:
            connection.execute(sa.update(t.jobs).where(t.jobs.c.id == job_id).values(config=config))
            space = of_job & (t.stages.c.name == "space")
            stored = connection.scalar(sa.select(t.stages.c.result).where(space))
            if stored is not None and described is not None:
                result = {**stored, "data": described}
                connection.execute(sa.update(t.stages).where(space).values(result=result))
            for split in forget:
                for table in (t.evaluations, t.hits):
                    own = {"job_id": job_id, "split": split, "weights": "inherited"}
                    connection.execute(sa.delete(table).filter_by(**own))
                connection.execute(sa.delete(t.stages).where(of_job & t.stages.c.name.in_(STAGES[split])))
                of_split = (t.events.c.stage == split) | t.events.c.stage.startswith(f"{split} ")
                connection.execute(sa.delete(t.events).where((t.events.c.job_id == job_id) & of_split))
            event = {"job_id": job_id, "created_at": now(), "stage": "space", "kind": KIND}
            connection.execute(sa.insert(t.events).values({**event, "data": {"message": message}}))
