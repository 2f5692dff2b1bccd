"""All jobs as a board shows them: what runs and how far it is, what waits and for what, what has ended."""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
import sqlalchemy as sa

from nas.limits import ACCURACY, kind_of
from nas.results import frames
from nas.results.frames import INHERITED, SPECIALISED
from nas.results.running.stage_progress import stage_progress
from nas.results.running.time_left import time_left
from nas.results.running.waiting import waiting_reasons
from nas.store import Job, Store
from nas.store import tables as t
from nas.store.connection.patience import again

INTERRUPTED, PAUSED = "interrupted", "paused"
BOARD = ["id", "name", "shown", "live", "words", "share", "seconds_left", "evaluations", "seconds"]
BOARD += ["created_at", "error", "family", "data", "tags", "sweep", "note", "position", "priority", "reason"]
BOARD += ["metric", "best", "curve"]
MOST_POINTS = 60  # of a curve that is drawn as wide as a word

Best = Mapping[tuple[int, str, str], tuple[float, float]]


def board(store: Store, counts: Mapping[int, int] | None = None, bests: "Best | None" = None) -> pd.DataFrame:
    """One row a job, the newest first.

    shown: the state as people say it.  words, share: of the stage that runs, None without one.
    position, reason: its turn in the queue, and what it waits for from elsewhere.
    best: the best quality on the report split, of what `metric` names.
    curve: of a job that runs its hypervolumes, oldest first, at most about MOST_POINTS.
    counts, bests: as of `evaluation_counts` and `best_qualities`, where they are known.
    """
    rows = frames.jobs(store, counts).to_dict("records")
    jobs, positions = (
        {job.id: job for job in store.jobs()},
        {job.id: i for i, job in enumerate(store.waiting(), 1)},
    )
    reasons, families = waiting_reasons(store), _families(store)
    bests = best_qualities(store) if bests is None else bests
    cells = []
    for row in rows:
        job = jobs.get(row["id"])
        if job is None:  # begun since the rows were read
            continue
        cells.append(
            {**row, "seconds": None if pd.isna(row["seconds"]) else row["seconds"]}
            | {"shown": shown_state(job, live=row["live"]), **_running(store, job, live=row["live"])}
            | {"family": families.get(job.id, ""), "data": _data(job.config), "tags": tuple(job.tags or ())}
            | {"sweep": job.sweep, "note": job.note, "position": positions.get(job.id)}
            | {"priority": job.priority, "reason": reasons.get(job.id), **_best(job, bests)}
        )
    return pd.DataFrame(cells, columns=BOARD, dtype=object)


def shown_state(job: Job, *, live: bool) -> str:
    """The state as people say it: one that runs without a process was interrupted."""
    if job.state == "running" and not live:
        return INTERRUPTED
    return PAUSED if job.state == "stopped" and job.paused else job.state


@again
def best_qualities(store: Store) -> Best:
    """The best and the worst number on the report split, by job, metric and weights."""
    c = t.evaluations.c
    asked = (c.split == "report") & (c.state == "ok") & c.weights.in_((INHERITED, SPECIALISED))
    query = sa.select(c.job_id, c.metric, c.weights, sa.func.max(c.value), sa.func.min(c.value))
    with store.read() as connection:
        rows = connection.execute(query.where(asked).group_by(c.job_id, c.metric, c.weights))
        return {(row[0], row[1], row[2]): (row[3], row[4]) for row in rows}


@again
def hypervolumes(store: Store, job: Job, most: int = MOST_POINTS) -> list[float]:
    """Those of the job's search, oldest first: evenly thinned to about `most`, with the last."""
    c = t.events.c
    asked = (c.job_id == job.id) & (c.kind == "hypervolume")
    numbered = (
        sa.select(c.id, sa.func.row_number().over(order_by=c.id).label("number")).where(asked).subquery()
    )
    with store.read() as connection:
        count = connection.scalar(sa.select(sa.func.count()).where(asked)) or 0
        every = max(1, -(-count // most))
        kept = sa.select(numbered.c.id).where((count - numbered.c.number) % every == 0)
        rows = connection.scalars(sa.select(c.data).where(c.id.in_(kept)).order_by(c.id)).all()
    values = [row.get("hypervolume") for row in rows if isinstance(row, Mapping)]
    return [float(value) for value in values if isinstance(value, int | float)]


def _running(store: Store, job: Job, *, live: bool) -> dict[str, Any]:
    if job.state != "running":
        return {"words": None, "share": None, "seconds_left": None, "curve": ()}
    now = stage_progress(store, job)
    done = None if now is None or now.done is None or not now.total else min(1.0, now.done / now.total)
    return {
        "words": None if now is None else now.words,
        "share": done,
        "seconds_left": time_left(store, job) if live else None,
        "curve": tuple(hypervolumes(store, job)),
    }


def _best(job: Job, bests: Best) -> dict[str, Any]:
    metric = str(job.config.get("quality", ACCURACY))
    of_weights = (bests.get((job.id, metric, weights)) for weights in (SPECIALISED, INHERITED))
    most, least = next((both for both in of_weights if both is not None), (None, None))
    return {"metric": metric, "best": most if kind_of(metric).goal == "max" else least}


@again
def _families(store: Store) -> dict[int, str]:
    """By job, as its space says it, or else its config: that of a supernet which is used names none."""
    c = t.stages.c
    with store.read() as connection:
        rows = connection.execute(sa.select(c.job_id, c.result).where(c.name == "space")).all()
    described = {job_id: (result or {}).get("space", {}).get("family") for job_id, result in rows}
    named = {job.id: _named_families(job.config) for job in store.jobs()}
    return {job_id: names or described.get(job_id) or "" for job_id, names in named.items()}


def _named_families(config: Mapping[str, Any]) -> str:
    sections: Iterable[Any] = config.get("supernets") or [config.get("supernet")]
    names = [one.get("family") for one in sections if isinstance(one, Mapping)]
    return ", ".join(dict.fromkeys(name for name in names if isinstance(name, str)))


def _data(config: Mapping[str, Any]) -> str:
    data = config.get("data")
    name = data.get("name") if isinstance(data, Mapping) else data
    return name if isinstance(name, str) else ""
