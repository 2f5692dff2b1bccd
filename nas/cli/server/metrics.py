"""What a store is at, as Prometheus reads it."""

import sqlalchemy as sa

from nas.cli.queue.work import worker_rows
from nas.store import Store
from nas.store import tables as t
from nas.store.leases import LEASE_SECONDS, whose
from nas.store.values import now

TYPE = "text/plain; version=0.0.4; charset=utf-8"
STATES = ("queued", "running", "succeeded", "failed", "stopped", "paused")
HELP = {
    "elastiform_jobs": "Jobs by state.",
    "elastiform_queue_age_seconds": "Age of the oldest submission that waits in the queue; 0 without one.",
    "elastiform_queue_jobs_held_up": "Queued jobs that wait for another job.",
    "elastiform_lease_age_seconds": "Seconds since a worker has renewed the lease of a job.",
    "elastiform_workers": "Workers that are there, by whether they run a job.",
    "elastiform_agents": "Device agents, by whether they are live.",
    "elastiform_evaluations": "Evaluations in the store.",
    "elastiform_measurements": "Measurements in the store.",
    "elastiform_supernets": "Supernets in the store.",
}
Sample = tuple[str, dict[str, str], float]


def metrics(store: Store) -> str:
    """The text, one metric after the other."""
    lines: list[str] = []
    samples = _samples(store)
    for name, words in HELP.items():
        lines += [f"# HELP {name} {words}", f"# TYPE {name} gauge"]
        lines += [f"{name}{_labels(labels)} {value:.16g}" for of, labels, value in samples if of == name]
    return "\n".join(lines) + "\n"


def _samples(store: Store) -> list[Sample]:
    jobs, moment, taken = store.jobs(), now(), store.taken()
    states = ["paused" if job.paused and job.state == "stopped" else job.state for job in jobs]
    waiting = [job.submitted_at for job in jobs if job.state == "queued" and job.submitted_at is not None]
    age = max((moment - min(waiting)).total_seconds(), 0.0) if waiting else 0.0
    leases: list[Sample] = [
        (
            "elastiform_lease_age_seconds",
            {"job": str(job.id), "worker": whose(job.owner)},
            max(LEASE_SECONDS - lasts, 0.0),
        )
        for job, lasts in taken
    ]
    rows = worker_rows(store)
    everybody, busy = (
        {row["worker"] for row in rows},
        {row["worker"] for row in rows if row["id"] is not None},
    )
    agents = [agent.live for agent in store.agents()]
    counted = {
        "elastiform_evaluations": t.evaluations,
        "elastiform_measurements": t.measurements,
        "elastiform_supernets": t.supernets,
    }
    return [
        *(("elastiform_jobs", {"state": state}, float(states.count(state))) for state in STATES),
        ("elastiform_queue_age_seconds", {}, age),
        ("elastiform_queue_jobs_held_up", {}, float(len(store.held_up()))),
        *leases,
        ("elastiform_workers", {"state": "busy"}, float(len(busy))),
        ("elastiform_workers", {"state": "idle"}, float(len(everybody - busy))),
        *(
            ("elastiform_agents", {"live": str(is_live).lower()}, agents.count(is_live))
            for is_live in (True, False)
        ),
        *((name, {}, float(_count(store, table))) for name, table in counted.items()),
    ]


def _count(store: Store, table: sa.Table) -> int:
    with store.read() as connection:
        return int(connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0)


def _labels(labels: dict[str, str]) -> str:
    """As Prometheus writes them; whoever named a host may have put anything into the name."""
    texts = [
        '{}="{}"'.format(name, value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n"))
        for name, value in labels.items()
    ]
    return f"{{{','.join(texts)}}}" if texts else ""
